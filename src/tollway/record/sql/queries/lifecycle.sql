-- name: requeue_runs
-- Gives held runs back to the queue under their fence: after an error (with a delay), parked (with a delay too, and so shown),
-- or when their worker is stopping. One that would park while somebody wants it cancelled is handed back.
-- `delay_s`, from the moment of its event on, is null for at once, and a run that somebody wants cancelled does not wait; `gate` is
-- what it waits behind meanwhile, in its old place; `errors` counts attempts that ended in an error; a run that lost two
-- workers goes on waiting for a process of its own. Returns the runs given back.
with leaving as materialized (
    select *, clock_timestamp() as at
    from unnest($2::uuid[], $3::bigint[], $4::int[], $5::float8[], $6::int[], $7::text[], $8::text[], $9::text[], $10::text[])
        as l (run_id, fence, seq, delay_s, errors, type, data, actor_kind, gate)
    order by run_id
), held as (
    update queue q
    set state = case when l.type = 'parked' and q.cancelled_by is null then 3 else 0 end, worker = null,
        next_seq = q.next_seq + 1, errors = q.errors + l.errors,
        gate = case when q.cancelled_by is not null then null when l.delay_s is not null then l.gate when q.lost >= 2 then 'alone' end,
        opens_at = case when q.cancelled_by is null then l.at + make_interval(secs => l.delay_s) end,
        expires_at = deadline_of(q.run_id)
    from leaving l
    where q.run_id = l.run_id and q.fence = l.fence and q.worker = $1 and q.next_seq = l.seq
    returning q.run_id, q.lane, q.class, q.tenant, q.place, q.gate, q.state
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select l.run_id, l.seq, case when l.type = 'parked' and h.state = 0 then 'handed_back' else l.type end, l.at, l.actor_kind, $1::text, l.data
    from leaving l join held h on h.run_id = l.run_id
), entered as materialized (
    select enter_flows(array_agg(lane), array_agg(class), array_agg(tenant), array_agg(place))
    from (
        select lane, class, tenant, min(place) as place from held where gate is null
        group by lane, class, tenant order by lane, class, tenant
    ) as line
    having count(*) > 0
)
select h.run_id from held h left join entered on true;

-- name: open_due
-- Opens gate $3 to those of the runs behind it whose time has come ($4: to any), at most $1 of them, the first in place. A parked one
-- is queued again, and its history says so ($2 is who opens). Of those that are due no more than 500 are looked at, and none of
-- those that are not: the moment is asked for once, which makes it a bound of the index. A run that never
-- started takes its concurrency key only now, or waits for it. Returns their lanes, how many they were, and the keys they wanted.
with due as materialized (
    select q.run_id, q.state
    from (
        (
            select run_id from queue where $4 and gate = $3 and opens_at is not null order by place limit $1
        )
        union all
        (
            select run_id
            from (
                select run_id, place from queue
                where not $4 and gate = $3 and opens_at <= (select clock_timestamp())
                order by opens_at limit 500
            ) as over
            order by place limit $1
        )
    ) as d
    join queue q on q.run_id = d.run_id
    where q.gate = $3
    for update of q skip locked
), opened as (
    update queue q
    set state = 0, opens_at = null, gate = case when q.lost >= 2 and q.cancelled_by is null then 'alone'
            when q.concurrency_key is not null and q.started_at is null then 'key' end,
        next_seq = q.next_seq + case d.state when 3 then 1 else 0 end
    from due d where q.run_id = d.run_id
    returning q.run_id, q.lane, q.class, q.tenant, q.place, q.gate, q.next_seq, q.concurrency_key, d.state as was
), passed as materialized (
    select p.* from (
        select array_agg(tenant) as tenants, array_agg(concurrency_key) as keys from opened where gate = 'key' having count(*) > 0
    ) as k
    cross join lateral pass_keys(k.tenants, k.keys) as p
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id)
    select o.run_id, o.next_seq - 1, 'resumed', clock_timestamp(), 'keeper', $2 from opened o where o.was = 3
), entered as materialized (
    select enter_flows(array_agg(lane), array_agg(class), array_agg(tenant), array_agg(place))
    from (
        select lane, class, tenant, min(place) as place
        from (
            select lane, class, tenant, place from opened where gate is null
            union all select lane, class, tenant, place from passed
        ) as open
        group by lane, class, tenant order by lane, class, tenant
    ) as line
    having count(*) > 0
)
select o.lane, count(*) as runs, array_agg(o.tenant) filter (where o.gate = 'key') as tenants,
    array_agg(o.concurrency_key) filter (where o.gate = 'key') as keys
from opened o left join entered on true group by o.lane;

-- name: next_due
-- What the keeper must wake for: of each gate that opens by itself the next moment (epoch seconds), and, without a gate, the
-- next expiry. The gates are found one after another by their index, however many runs wait behind each.
with recursive standing (gate) as (
    select min(gate) from queue where gate is not null and opens_at is not null
    union all
    select (select min(q.gate) from queue q where q.gate > s.gate and q.opens_at is not null) from standing s where s.gate is not null
)
select s.gate, (
    select extract(epoch from min(q.opens_at))::float8 from queue q where q.gate = s.gate and q.opens_at is not null
) as at
from standing s where s.gate is not null
union all
select null, (select extract(epoch from min(expires_at)) from queue where expires_at is not null and state <> 1)::float8;

-- name: find_expired
-- Runs past their deadline or time to live that no worker holds.
select run_id from queue where expires_at <= (select clock_timestamp()) and state <> 1 order by expires_at limit $1;

-- name: reap_worker
-- Takes back what a lost worker held: each run's fence rises, so that nothing the worker still writes is taken.
-- It was started, so only its deadline can expire it now. The lease TTL is judged by the caller. From the second loss on a run waits for a process of its own; losing that one too ends it (see end_poison).
with lost as (
    update queue q
    set state = 0, worker = null, fence = ((q.fence >> 16) + 1) << 16, lost = q.lost + 1, next_seq = q.next_seq + 1,
        gate = case when q.lost + 1 >= 2 and q.cancelled_by is null then 'alone' end,
        expires_at = deadline_of(q.run_id)
    where q.worker = $1 and q.state = 1
    returning q.run_id, q.lane, q.class, q.tenant, q.place, q.gate, q.next_seq, q.lost
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select l.run_id, l.next_seq - 1, 'retried', clock_timestamp(), 'keeper', $2, '{"reason":"lost","worker":"' || $1 || '"}'
    from lost l
), entered as materialized (
    select enter_flows(array_agg(lane), array_agg(class), array_agg(tenant), array_agg(place))
    from (
        select lane, class, tenant, min(place) as place from lost where gate is null
        group by lane, class, tenant order by lane, class, tenant
    ) as line
    having count(*) > 0
), gone as (
    delete from process where id = $1
)
select l.run_id, l.lane, l.lost from lost l left join entered on true;

-- name: find_orphans
-- Workers that hold runs but have no row: their runs are taken back at once.
select distinct q.worker from queue q where q.state = 1 and not exists (select from process p where p.id = q.worker);

-- name: find_poison
-- Runs that lost even the process of their own.
select run_id from queue where gate = 'alone' and lost >= 3 and state = 0 limit 100;

-- name: held_by
-- What a worker holds by the record: what it does not know of are claims whose answer was lost on the way.
select run_id, fence, next_seq from queue where worker = $1 and state = 1;

-- name: cancelled_held
-- What of a worker's runs somebody wants cancelled.
select run_id, fence, cancelled_by from queue where worker = $1 and state = 1 and cancelled_by is not null;
