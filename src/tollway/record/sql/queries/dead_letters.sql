-- name: list_dead_letters
-- Open dead letters (neither replayed nor discarded), grouped by fingerprint and agent, the latest group first.
-- ($6, $7, $8) is the cursor.
select fingerprint, agent, count(*) as count, min(died_at) as first_died_at, max(died_at) as last_died_at,
       sum(cost_nano)::bigint as cost_nano,
       (array_agg(code order by run_id desc))[1] as code,
       (array_agg(message order by run_id desc))[1] as message,
       (array_agg(run_id order by run_id desc))[1:5] as examples
from dead_letter
where replayed_as is null and discarded_at is null
  and ($1::text is null or tenant = $1) and ($2::text is null or fingerprint = $2) and ($3::text is null or agent = $3)
  and ($4::text is null or lane = $4) and ($5::text is null or code = $5)
group by fingerprint, agent
having $6::timestamptz is null or (max(died_at), fingerprint, agent) < ($6, $7::text, $8::text)
order by max(died_at) desc, fingerprint desc, agent desc
limit $9

-- name: list_letters
-- The open letters of one group, newest run first, each with the step that failed last. $6 is the cursor.
select d.run_id, d.tenant, d.agent, d.lane, d.code, d.message, d.cost_nano, d.died_at, r.created_at, r.attempt, r.steps,
       s.n as step_n, s.name as step_name, s.kind as step_kind, s.state as step_state, s.error as step_error
from (
    select * from dead_letter
    where fingerprint = $2 and replayed_as is null and discarded_at is null
      and ($1::text is null or tenant = $1) and ($3::text is null or agent = $3) and ($4::text is null or lane = $4)
      and ($5::text is null or code = $5) and ($6::uuid is null or run_id < $6)
    order by run_id desc
    limit $7
) d
left join run r on r.id = d.run_id
left join lateral (
    select n, name, kind, state, error from step where run_id = d.run_id and state in ('failed', 'unknown') order by n desc limit 1
) s on true
order by d.run_id desc

-- name: count_letters
-- How many open letters fit, and the snapshot in which they were counted.
select count(*) as count, pg_current_snapshot()::text as view
from dead_letter
where replayed_as is null and discarded_at is null
  and ($1::text is null or tenant = $1) and ($2::text is null or fingerprint = $2) and ($3::text is null or agent = $3)
  and ($4::text is null or lane = $4) and ($5::text is null or code = $5)

-- name: list_dead_ids
-- Runs of the open letters that fit, oldest first; with $6 only those that were there in that snapshot.
select run_id
from dead_letter
where replayed_as is null and discarded_at is null
  and ($1::text is null or tenant = $1) and ($2::text is null or fingerprint = $2) and ($3::text is null or agent = $3)
  and ($4::text is null or lane = $4) and ($5::text is null or code = $5)
  and ($6::text is null or was_seen(xmin, $6::text::pg_snapshot))
order by run_id
limit $7

-- name: lock_ended_runs
-- Holds ended runs, in the order of their ids, so that two callers cannot deadlock. What is then asked has a snapshot of its
-- own, and sees what those did for whom this had to wait.
select id from run where id = any($1::uuid[]) and state is not null order by id for no key update

-- name: read_letters
-- Where the letters of runs stand.
select run_id, tenant, replayed_as, discarded_at from dead_letter where run_id = any($1::uuid[])

-- name: discard_letters
-- Takes open letters off the list, and tells their runs' histories who ($2) did so. The runs are locked.
with discarded as (
    update dead_letter
    set discarded_at = clock_timestamp(), discarded_by = $2
    where run_id = any($1::uuid[]) and replayed_as is null and discarded_at is null
    returning run_id, discarded_at
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id)
    select d.run_id, l.seq + 1, 'discarded', d.discarded_at, 'key', $2
    from discarded d
    cross join lateral (select max(e.seq) as seq from event e where e.run_id = d.run_id) l
    where l.seq is not null -- else the history is past its retention
)
select run_id from discarded
