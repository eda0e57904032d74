-- name: claim_runs
-- Claims up to $4 runs of lane $2 in the classes $3, fair by cost between tenants: the twin of queue.fair.pick().
-- From the $7 open lines of least vtime, the runs of least virtual start (vtime + cost before it / weight) are taken, and
-- each line is charged what it got, which may be less than was seen: another claim or a cancel was quicker. `head` stays
-- behind now, whatever a run's place: what is being accepted now must not fall behind it. $5 is the floor of vtime per
-- class (dead index entries below it are not read), $6 the claim's number within the worker $1: both make the fence unguessable.
with open_line as materialized (
    select f.class, f.tenant, f.vtime, f.head, t.weight
    from unnest($3::text[], $5::float8[]) as c (class, floor)
    cross join lateral (
        select o.class, o.tenant, o.vtime, o.head from flow o
        where o.lane = $2 and o.class = c.class and o.state = 0 and o.vtime >= c.floor
        order by o.vtime
        limit $7
        for no key update skip locked
    ) as f
    join tenant t on t.id = f.tenant
    order by f.vtime
    limit $7
), candidate as materialized (
    select o.class, o.tenant, o.weight, q.run_id, q.est_nano, q.place,
        o.vtime + (sum(q.est_nano) over (partition by o.class, o.tenant order by q.place, q.run_id) - q.est_nano) / o.weight as start
    from open_line o
    cross join lateral (
        select r.run_id, r.est_nano, r.place from queue r
        where r.lane = $2 and r.class = o.class and r.tenant = o.tenant and r.state = 0 and r.gate is null and r.place >= o.head
        order by r.place
        limit least($4::int, greatest(4, 2 * $4::int / (select count(*)::int from open_line)))
    ) as q
), taken as materialized (
    select * from candidate order by start, place limit $4
), claimed as (
    update queue q
    set state = 1, worker = $1, fence = (((q.fence >> 16) + 1) << 16) | $6::bigint, next_seq = q.next_seq + 1,
        started_at = coalesce(q.started_at, statement_timestamp())
    from (select * from taken order by run_id) as t -- in which a cancel locks them
    where q.run_id = t.run_id and q.state = 0
        and coalesce(q.gate, '') = '' -- it may have been claimed and given back meanwhile (so said, no index of the backlog fits)
    returning q.run_id, q.fence, q.next_seq, q.errors, q.lost, q.started_at, q.steps, q.llm_calls, t.class, t.tenant,
        q.est_nano, q.cancelled_by, t.weight, t.place
), charged as (
    update flow f
    set vtime = f.vtime + s.cost / s.weight,
        head = greatest(f.head, least(s.place, (extract(epoch from clock_timestamp()) * 1000000)::bigint) - 60000000)
    from (
        select class, tenant, min(weight) as weight, sum(est_nano) as cost, max(place) as place from claimed group by class, tenant
    ) as s
    where f.lane = $2 and f.class = s.class and f.tenant = s.tenant
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select c.run_id, c.next_seq - 1, 'claimed', statement_timestamp(), 'worker', $1::text,
        '{"attempt":' || (1 + c.errors + c.lost) || '}'
    from claimed c
), empty as (
    select array_agg(array[o.class, o.tenant]) as lines
    from open_line o where not exists (select from candidate c where c.class = o.class and c.tenant = o.tenant)
), bounds as (
    select (select min(vtime) from open_line) as low, (select count(*)::int from open_line) as lines
)
select c.run_id, c.fence, c.next_seq, c.errors, c.lost, c.started_at, c.steps, c.llm_calls, c.class, c.tenant, c.est_nano, c.cancelled_by,
    r.version, r.input, r.metadata::text as metadata, r.created_at, r.deadline_at, r.max_attempts, r.budget_nano,
    r.lane, r.key_id,
    r.webhook_url is not null as hooked, e.lines as empty, b.low, b.lines
from bounds b
cross join empty e
left join (claimed c join run r on r.id = c.run_id and r.id = any (array(select run_id from taken))) on true;

-- name: lock_lines
-- First half of marking lines idle: hold them against runs that enter just now.
select f.class, f.tenant from flow f join unnest($2::text[], $3::text[]) as e (class, tenant)
    on f.lane = $1 and f.class = e.class and f.tenant = e.tenant
where f.state = 0
for update of f skip locked;

-- name: idle_lines
-- Second half, with a snapshot of its own: mark what is still empty.
update flow f
set state = 1
from unnest($2::text[], $3::text[]) as e (class, tenant)
where f.lane = $1 and f.class = e.class and f.tenant = e.tenant and f.state = 0
    and not exists (
        select from queue q
        where q.lane = f.lane and q.class = f.class and q.tenant = f.tenant and q.state = 0 and q.gate is null
    );

-- name: true_up
-- Adds what runs really cost, beyond their estimate, to their lines.
update flow f
set vtime = greatest(0, f.vtime + e.cost / t.weight)
from unnest($1::text[], $2::text[], $3::text[], $4::float8[]) as e (lane, class, tenant, cost)
join tenant t on t.id = e.tenant
where f.lane = e.lane and f.class = e.class and f.tenant = e.tenant;

-- name: raise_floor
-- Remembers how far service has come in a lane's classes.
insert into flow_floor as f (lane, class, vtime)
select $1, c.class, c.vtime from unnest($2::text[], $3::float8[]) as c (class, vtime)
on conflict (lane, class) do update set vtime = greatest(f.vtime, excluded.vtime);

-- name: claim_alone
-- Claims one run whose gate is `alone`: it lost its workers again and again, and runs in a process of its own.
with claimed as (
    update queue q
    set state = 1, gate = null, worker = $1, fence = (((q.fence >> 16) + 1) << 16) | $3::bigint, next_seq = q.next_seq + 1,
        started_at = coalesce(q.started_at, statement_timestamp())
    where q.run_id = $2 and q.state = 0 and q.gate = 'alone' and q.lost < 3 -- else it is poison, and about to be ended
    returning q.*
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select c.run_id, c.next_seq - 1, 'claimed', statement_timestamp(), 'worker', $1::text,
        '{"attempt":' || (1 + c.errors + c.lost) || ',"alone":true}'
    from claimed c
)
select c.run_id, c.fence, c.next_seq, c.errors, c.lost, c.started_at, c.steps, c.llm_calls, c.class, c.tenant, c.est_nano, c.cancelled_by,
    r.version, r.input, r.metadata::text as metadata, r.created_at, r.deadline_at, r.max_attempts, r.budget_nano, r.lane, r.key_id,
    r.webhook_url is not null as hooked
from claimed c join run r on r.id = c.run_id and r.id = any (array[$2]);

-- name: find_alone
-- Runs that wait for a process of their own, oldest first.
select run_id from queue where gate = 'alone' and state = 0 and lost < 3 and lane = any ($1::text[]) and class = any ($2::text[])
order by place limit $3;

-- name: lanes_with_work
-- Of the given lanes, those with a runnable run of the given classes: what an idle worker asks instead of claiming.
select l.lane from unnest($1::text[]) as l (lane)
where exists (
    select from unnest($2::text[]) as c (class)
    where exists (select from queue q where q.lane = l.lane and q.class = c.class and q.state = 0 and q.gate is null)
);
