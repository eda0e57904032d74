-- name: read_runs
-- The runs of the given ids with their live rows. $2 and $3 are the least and the greatest of the ids: a generic plan
-- prunes partitions by a range, never by an array.
select r.id, r.tenant, r.agent, r.version, r.lane, r.input, r.metadata::text, r.created_at, r.predicted_start_at, r.replay_of,
       r.state, r.output, r.error_code, r.error_message, r.ended_at, r.degraded,
       q.state, q.gate,
       coalesce(r.attempt, 1 + q.errors + q.lost, 1),
       coalesce(r.started_at, q.started_at),
       coalesce(r.llm_calls, q.llm_calls, 0),
       coalesce(r.steps, q.steps, 0),
       coalesce(r.tool_calls, 0),
       coalesce(r.input_tokens, q.input_tokens, 0),
       coalesce(r.output_tokens, q.output_tokens, 0),
       coalesce(r.cached_tokens, q.cached_tokens, 0),
       coalesce(r.cost_nano, q.cost_nano, 0),
       q.opens_at, r.concurrency_key, f.state = 3 as full
from run r left join queue q on q.run_id = r.id
left join flow f on q.state = 0 and q.gate is null and f.lane = q.lane and f.class = q.class and f.tenant = q.tenant
where r.id = any($1::uuid[]) and r.id between $2::uuid and $3::uuid

-- name: list_run_ids_of_tenant
-- Ids of a tenant's runs, newest first, streamed from (tenant, id). $2 is the cursor, $3 and $4 bound the time of making.
select r.id
from run r
where r.tenant = $1 and r.id < $2::uuid and r.id >= $3::uuid and r.id < $4::uuid
  and ($5::text is null or r.agent = $5) and ($6::text is null or r.lane = $6) and ($7::text is null or r.state = $7)
  and not exists (select from unnest($8::text[], $9::text[]) as f (key, value) where r.metadata ->> f.key is distinct from f.value)
order by r.id desc
limit $10

-- name: list_run_ids
-- The same over every tenant; $1 is not used but keeps the numbers alike.
select r.id
from run r
where $1::text is null and r.id < $2::uuid and r.id >= $3::uuid and r.id < $4::uuid
  and ($5::text is null or r.agent = $5) and ($6::text is null or r.lane = $6) and ($7::text is null or r.state = $7)
  and not exists (select from unnest($8::text[], $9::text[]) as f (key, value) where r.metadata ->> f.key is distinct from f.value)
order by r.id desc
limit $10

-- name: list_live_run_ids
-- Ids of runs that have not ended, newest first, streamed from the queue's key. $7 is a state as a number or null for any.
select q.run_id as id
from queue q join run r on r.id = q.run_id
where ($1::text is null or q.tenant = $1) and q.run_id < $2::uuid and q.run_id >= $3::uuid and q.run_id < $4::uuid
  and ($5::text is null or r.agent = $5) and ($6::text is null or q.lane = $6) and ($7::smallint is null or q.state = $7)
  and not exists (select from unnest($8::text[], $9::text[]) as f (key, value) where r.metadata ->> f.key is distinct from f.value)
order by q.run_id desc
limit $10

-- name: read_events
-- The next events of several runs after the given numbers, at most $3 for each pair; `place` is the pair's, from 1.
select w.place, e.seq, e.type, e.at, e.actor_kind, e.actor_id, e.data
from unnest($1::uuid[], $2::integer[]) with ordinality as w (run_id, seq, place)
cross join lateral (
    select * from event e where e.run_id = w.run_id and e.seq > w.seq order by e.seq limit $3
) e
order by w.place, e.seq

-- name: list_steps
-- The journal of a run in order.
select n, name, kind, state, attempt, route, cached, input_tokens, output_tokens, cost_nano, saved_nano, calls, started_at, ended_at, error
from step
where run_id = $1 and n > $2
order by n
limit $3
