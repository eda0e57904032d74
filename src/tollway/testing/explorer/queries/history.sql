-- name: explorer_runs
-- Every run as its row stands, with what is left of it in the queue.
select r.id, r.agent, r.state, r.attempt, r.started_at, r.ended_at, r.error_code, r.error_message, r.output,
    r.steps, r.llm_calls, r.input_tokens, r.output_tokens, r.cached_tokens, r.cost_nano, q.state as queued_as, q.gate, q.worker, q.lost
from run r left join queue q on q.run_id = r.id
order by r.id;

-- name: explorer_events
-- Every event.
select run_id, seq, type, at, actor_kind, actor_id, data from event order by run_id, seq;

-- name: explorer_steps
-- Every step.
select run_id, n, path, kind, name, state, call_id, reserved_nano, result, calls, cost_nano from step order by run_id, n;

-- name: explorer_ledger
-- Every entry of money.
select call_id, kind, run_id, n, nano from ledger order by call_id, kind;

-- name: explorer_live
-- How many runs have not ended, by the queue and by their rows.
select (select count(*) from queue) + (select count(*) from run where state is null);

-- name: create_database
-- A copy of a database to which nobody is connected. Names are the explorer's own.
create database {0} template {1} owner tollway;

-- name: drop_database
-- Whoever is connected.
drop database if exists {0} with (force);
