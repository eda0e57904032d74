-- name: read_replayed
-- What replays take over from ended runs, in the order of $1, and how long each journal is: one row an id, empty where there
-- is no such run. As many from the first on as have inputs of less than $2 bytes together, at least one.
select id, tenant, agent, lane, state, input, metadata, created_at, priority_s, deadline_at, max_attempts, budget_nano,
       concurrency_key, concurrency_policy, webhook_url, webhook_secret_env, steps, replayed_as, discarded_at
from (
    select w.place, r.id, r.tenant, r.agent, r.lane, r.state, r.input, r.metadata::text as metadata, r.created_at, r.priority_s,
           r.deadline_at, r.max_attempts, r.budget_nano, r.concurrency_key, r.concurrency_policy, r.webhook_url,
           r.webhook_secret_env, d.replayed_as, d.discarded_at,
           (select coalesce(max(s.n), 0) from step s where s.run_id = r.id) as steps,
           sum(coalesce(octet_length(r.input), 0)) over (order by w.place) as bytes
    from unnest($1::uuid[]) with ordinality as w (id, place)
    left join run r on r.id = w.id
    left join dead_letter d on d.run_id = w.id
) as found
where place = 1 or bytes < $2
order by place

-- name: copy_steps
-- The finished steps of the runs $1 as the journals of the runs $2: those before the numbers $3, or where that is null all of
-- them, and those cut between intent and outcome, whose policy decides anew. They were paid for there, so here they cost nothing.
-- They are found by their paths, so their numbers begin anew, without gaps. Returns how many each new run has.
with copied as (
    insert into step (run_id, n, path, kind, name, state, attempt, fence, call_id, started_at, ended_at, result, error, route, cached)
    select w.new, row_number() over (partition by w.new order by s.n), s.path, s.kind, s.name, s.state, s.attempt, 0, s.call_id, s.started_at, s.ended_at, s.result, s.error, s.route,
           s.cached
    from unnest($1::uuid[], $2::uuid[], $3::int[]) as w (old, new, before)
    cross join lateral (
        select * from step s
        where s.run_id = w.old and (s.state = 'done' or (w.before is null and s.state = 'unknown'))
          and (w.before is null or s.n < w.before)
    ) s
    returning run_id
)
select run_id, count(*)::int as steps from copied group by run_id

-- name: start_journals
-- The journals of new runs hold copied steps already.
update queue q set steps = w.steps
from unnest($1::uuid[], $2::int[]) as w (run_id, steps)
where q.run_id = w.run_id

-- name: tell_replayed
-- Tells the histories of ended runs ($1, which are locked) of the runs that replay them ($2), and lays their dead letters aside.
with replayed as materialized (
    select * from unnest($1::uuid[], $2::uuid[]) as w (old, new)
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select w.old, l.seq + 1, 'replayed', clock_timestamp(), 'key', $3, jsonb_build_object('run_id', w.new)::text
    from replayed w
    cross join lateral (select max(e.seq) as seq from event e where e.run_id = w.old) l
    where l.seq is not null -- else the history is past its retention
)
update dead_letter d set replayed_as = w.new
from replayed w
where d.run_id = w.old and d.replayed_as is null
