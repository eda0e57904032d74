-- name: read_replayed
-- What a replay takes over from an ended run, and how long its journal is.
select r.id, r.tenant, r.agent, r.lane, r.state, r.input, r.metadata::text as metadata, r.created_at, r.priority_s, r.deadline_at,
       r.max_attempts, r.budget_nano, r.concurrency_key, r.concurrency_policy, r.webhook_url, r.webhook_secret_env,
       (select coalesce(max(s.n), 0) from step s where s.run_id = r.id) as steps
from run r
where r.id = $1

-- name: copy_steps
-- The finished steps before $3 of run $1 as the journal of run $2. They were paid for there, so here they cost nothing.
insert into step (run_id, n, path, kind, name, state, attempt, fence, call_id, started_at, ended_at, result, route, cached)
select $2, n, path, kind, name, state, attempt, 0, call_id, started_at, ended_at, result, route, cached
from step
where run_id = $1 and n < $3 and state = 'done'

-- name: start_journal_at
-- The new run's journal holds copied steps up to $2.
update queue set steps = $2 where run_id = $1

-- name: tell_replayed
-- Tells the history of each ended run of which run replays it, and lays its dead letter aside. The run row's lock keeps
-- the numbers of two replays apart.
with locked as materialized (
    select id from run where id = $1 and state is not null for no key update
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select l.id, (select coalesce(max(e.seq), 0) + 1 from event e where e.run_id = $1), 'replayed', clock_timestamp(), 'key', $3,
           jsonb_build_object('run_id', $2::uuid)::text
    from locked l
)
update dead_letter set replayed_as = $2 where run_id = $1
