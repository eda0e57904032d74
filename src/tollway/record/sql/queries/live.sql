-- name: count_live_runs
-- How many runs that have not ended fit, by what their live rows tell, and the snapshot in which they were counted. $2 and $3
-- bound the time of making, $4 is the agent, $5 the lane, $6 a state as a number or null for any.
select count(*) as count, pg_current_snapshot()::text as view
from queue q
where ($1::text is null or q.tenant = $1) and q.run_id >= $2::uuid and q.run_id < $3::uuid
  and ($4::text is null or q.class = $4) and ($5::text is null or q.lane = $5) and ($6::smallint is null or q.state = $6)

-- name: count_live_runs_looked_into
-- The same for a filter that asks of metadata too: $7 are its keys, $8 their values.
select count(*) as count, pg_current_snapshot()::text as view
from queue q join run r on r.id = q.run_id
where ($1::text is null or q.tenant = $1) and q.run_id >= $2::uuid and q.run_id < $3::uuid
  and ($4::text is null or q.class = $4) and ($5::text is null or q.lane = $5) and ($6::smallint is null or q.state = $6)
  and not exists (select from unnest($7::text[], $8::text[]) as f (key, value) where r.metadata ->> f.key is distinct from f.value)

-- name: list_counted_runs
-- Ids of the runs that fit now and were counted in the snapshot $9 (null: any), oldest first. A live run's row in `run` was written at its
-- accept and not since, so its xmin tells whether it was there; one that has changed its state since is left out, when the
-- filter asks for a state.
select q.run_id
from queue q join run r on r.id = q.run_id
where ($1::text is null or q.tenant = $1) and q.run_id >= $2::uuid and q.run_id < $3::uuid
  and ($4::text is null or q.class = $4) and ($5::text is null or q.lane = $5) and ($6::smallint is null or q.state = $6)
  and not exists (select from unnest($7::text[], $8::text[]) as f (key, value) where r.metadata ->> f.key is distinct from f.value)
  and ($9::text is null or was_seen(r.xmin, $9::text::pg_snapshot))
  and ($9::text is null or $6::smallint is null or q.started_at is null or coalesce((
        select false from event e
        where e.run_id = q.run_id and e.type in ('claimed', 'retried', 'handed_back', 'waiting', 'parked', 'resumed')
          and not was_seen(e.xmin, $9::text::pg_snapshot)
        limit 1
    ), true))
order by q.run_id
limit $10
