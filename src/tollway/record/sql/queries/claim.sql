-- name: claim_runs
-- Claims up to $4 runs of lane $2 in the classes $3, fair by cost between tenants: the twin of queue.fair.pick().
-- From the $7 open lines of least vtime, the runs of least virtual start (vtime + cost before it / weight) are taken, and
-- each line is charged what it got (up to twice its fair part of the claim, 4 at least), which may be less than was seen: another claim or a cancel was quicker. A tenant's weight
-- is divided by its open lines in the lane. A run is charged what a run of its line cost lately; not known yet, of its class;
-- else the estimate it was accepted with. A line left behind where service stands (its class was held, say) goes on from there.
-- `head` follows what was claimed, but stays a minute behind now: what is being accepted must not fall behind it.
-- $5 is the floor of vtime per class (dead index entries below it are not read), $6 the claim's number within the worker $1:
-- both make the fence unguessable.
-- Bounds: $8 most runs per class, or null; $9 tenants left out; $10 and $11 most runs of some tenants, $12 of any other, or
-- null; and for a tenant with max_running the room that it has by the record (null: another claim counts just now, so none).
-- Returns with each run (or one row without) the lines found empty, the least vtime and start, the lines looked at, whether there is
-- more though the claim fell short (open lines not looked at, or one that got all its part of the claim), and the capped tenants that have no room left. (The range of ids is there to
-- prune partitions.)
with standing as materialized ( -- read once: an old snapshot held elsewhere leaves hundreds of dead versions of such a row
    select b.class, b.vtime, b.est_nano from flow_floor b where b.lane = $2 and b.class = any ($3::text[])
), open_line as materialized (
    select f.class, f.tenant, f.vtime as seen, greatest(f.vtime, b.vtime) as vtime, f.head, t.max_running is not null as capped,
        coalesce(nullif(f.est_nano, 0), b.est_nano, 0) as est_nano,
        t.weight / case when cardinality($3) = 1 then 1 else (
            select greatest(1, count(*)) from flow s
            where s.tenant = f.tenant and s.lane = $2 and s.class = any ($3) and s.state = 0
        ) end as weight
    from unnest($3::text[], $5::float8[]) as c (class, floor)
    left join standing b on b.class = c.class
    cross join lateral (
        select o.class, o.tenant, o.vtime, o.head, o.est_nano from flow o
        where o.lane = $2 and o.class = c.class and o.state = 0 and o.vtime >= c.floor and o.tenant <> all ($9::text[])
        order by o.vtime
        limit greatest(8, 1 + ($7::int - 1) / cardinality($3))
        for no key update skip locked
    ) as f
    join tenant t on t.id = f.tenant
    order by f.vtime
    limit $7
), looked as materialized (
    select count(*)::int as lines, min(seen) as low, min(vtime) as level, coalesce(bool_or(capped), false) as capped,
        sum(weight / case est_nano when 0 then 1000000 else est_nano end) as rates
    from open_line
), room as materialized (
    select t.tenant, tenant_room(t.tenant) as runs from (select distinct tenant from open_line where capped) as t
), candidate as materialized (
    select o.class, o.tenant, o.weight, q.run_id, q.est_nano, q.place,
        o.vtime + (sum(q.est_nano::float8) over (partition by o.class, o.tenant order by q.place, q.run_id) - q.est_nano) / o.weight as start,
        n.most
    from open_line o
    cross join lateral (
        select least($4::int, greatest(4, ceil(
            2 * $4::int * (o.weight / case o.est_nano when 0 then 1000000 else o.est_nano end) / (select rates from looked) - 1e-6
        )::int)) as most
    ) as n
    cross join lateral (
        select r.run_id, case o.est_nano when 0 then r.est_nano else o.est_nano end as est_nano, r.place from queue r
        where r.lane = $2 and r.class = o.class and r.tenant = o.tenant and r.state = 0 and r.gate is null and r.place >= o.head
        order by r.place
        limit n.most
    ) as q
), fitting as (
    select * from candidate where (select $8::int[] is null and $12::int is null and not capped from looked)
    union all
    select c.class, c.tenant, c.weight, c.run_id, c.est_nano, c.place, c.start, c.most
    from (
        select *, row_number() over (partition by class order by start, place) as in_class,
            row_number() over (partition by tenant order by start, place) as in_tenant
        from candidate
    ) as c
    left join unnest($3::text[], $8::int[]) as l (class, runs) on l.class = c.class
    left join unnest($10::text[], $11::int[]) as n (tenant, runs) on n.tenant = c.tenant
    left join room r on r.tenant = c.tenant
    where (select $8::int[] is not null or $12::int is not null or capped from looked)
        and (l.runs is null or c.in_class <= l.runs) and c.in_tenant <= coalesce(n.runs, $12, 2147483647)
        and (r.tenant is null or c.in_tenant <= coalesce(r.runs, 0))
), taken as materialized (
    select * from fitting order by start, place limit $4
), claimed as (
    update queue q
    set state = 1, worker = $1, fence = (((q.fence >> 16) + 1) << 16) | $6::bigint, next_seq = q.next_seq + 1,
        started_at = coalesce(q.started_at, statement_timestamp())
    from (select * from taken order by run_id) as t -- in which ends lock them
    where q.run_id = t.run_id and q.state = 0
        and coalesce(q.gate, '') = '' -- it may have been claimed and given back meanwhile (so said, no index of the backlog fits)
    returning q.run_id, q.fence, q.next_seq, q.errors, q.lost, q.started_at, q.steps, q.llm_calls, t.class, t.tenant,
        t.est_nano, q.cancelled_by, t.weight, t.place
), charged as (
    update flow f
    set vtime = greatest(f.vtime, b.vtime) + s.cost / s.weight,
        head = greatest(f.head, least(s.place, (extract(epoch from clock_timestamp()) * 1000000)::bigint - 60000000))
    from (
        select class, tenant, min(weight) as weight, sum(est_nano) as cost, max(place) as place from claimed group by class, tenant
    ) as s
    left join standing b on b.class = s.class
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
    select l.low, l.level, l.lines,
        case when (select count(*) from taken) < $4 then l.lines < (
            select count(*) from (
                select from flow o where o.lane = $2 and o.class = any ($3) and o.state = 0 and o.tenant <> all ($9) limit $7 + 1
            ) as every
        ) or exists (select from room where runs is null)
            or exists (select from taken group by class, tenant having count(*) >= min(most)) end as more,
        (
            select array_agg(r.tenant) from room r
            where r.runs <= (select count(*) from claimed c where c.tenant = r.tenant)
        ) as filled
    from looked l
)
select c.run_id, c.fence, c.next_seq, c.errors, c.lost, c.started_at, c.steps, c.llm_calls, c.class, c.tenant, c.est_nano, c.cancelled_by,
    r.version, r.input, r.metadata::text as metadata, r.created_at, r.deadline_at, r.predicted_start_at, r.max_attempts, r.budget_nano,
    r.lane, r.key_id,
    r.webhook_url is not null as hooked, c.weight, (select t.weight from tenant t where t.id = c.tenant) as tenant_weight, c.place,
    exists (select from room m where m.tenant = c.tenant) as capped,
    e.lines as empty, b.low, b.level, b.lines, b.more, b.filled
from bounds b
cross join empty e
left join (
    claimed c join run r on r.id = c.run_id and r.id = any (array(select run_id from taken))
        and r.id between (select run_id from taken order by run_id limit 1) and (select run_id from taken order by run_id desc limit 1)
) on true;

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
-- Adds to lines what their runs really cost beyond what they were charged, $4 (over the weight they were charged by), and lets
-- line and class learn from the $5 runs that ended, which cost $6 together: a moving average, a tenth of each new cost.
-- A line whose runs cost what they were charged is left as it is: a write less. A refund takes a line no further back than
-- where it entered last, so that none becomes a credit from before.
-- Lines are locked in order, given in order, and the classes after them.
with ended as materialized (
    select * from unnest($1::text[], $2::text[], $3::text[], $4::float8[], $5::int[], $6::float8[])
        as e (lane, class, tenant, due, runs, cost)
), locked as materialized (
    select e.*, power(0.9, e.runs) as kept from flow f join ended e on f.lane = e.lane and f.class = e.class and f.tenant = e.tenant
    where e.due <> 0 or (e.runs > 0 and abs(e.cost - e.runs * f.est_nano) >= 0.02 * e.runs * f.est_nano)
    order by e.lane, e.class, e.tenant
    for no key update of f
), trued as (
    update flow f
    set vtime = greatest(f.entered, f.vtime + l.due),
        est_nano = case when l.runs = 0 then f.est_nano when f.est_nano = 0 then greatest(1, l.cost / l.runs)::bigint
                        else greatest(1, f.est_nano * l.kept + l.cost / l.runs * (1 - l.kept))::bigint end
    from locked l
    where f.lane = l.lane and f.class = l.class and f.tenant = l.tenant
), learned as materialized (
    select lane, class, power(0.9, sum(runs)) as kept, sum(cost) / sum(runs) as mean from ended where runs > 0 group by lane, class
), held as materialized (
    select l.* from flow_floor b join learned l on b.lane = l.lane and b.class = l.class
    where abs(l.mean - b.est_nano) >= 0.02 * b.est_nano
    order by b.lane, b.class
    for no key update of b
)
update flow_floor b
set est_nano = greatest(1, case b.est_nano when 0 then h.mean else b.est_nano * h.kept + h.mean * (1 - h.kept) end)::bigint
from held h
where b.lane = h.lane and b.class = h.class;

-- name: raise_floor
-- Remembers how far service has come in a lane's classes, given in order.
insert into flow_floor as f (lane, class, vtime)
select $1, c.class, c.vtime from unnest($2::text[], $3::float8[]) as c (class, vtime)
on conflict (lane, class) do update set vtime = greatest(f.vtime, excluded.vtime);

-- name: enter_classes
-- Classes that nobody served before enter each lane where the service of the others stands that this worker serves:
-- at zero they would be served alone until they had caught up with years.
insert into flow_floor (lane, class, vtime)
select l.lane, c.class, coalesce((select max(b.vtime) from flow_floor b where b.lane = l.lane and b.class = any ($2)), 0)
from unnest($1::text[]) as l (lane) cross join unnest($2::text[]) as c (class)
order by l.lane, c.class
on conflict (lane, class) do nothing;

-- name: turn_capped
-- Opens the full lines of capped tenants that have room again, and makes those full that have none. Returns the lanes opened.
select opened from turn_capped($1::text[]);

-- name: find_full
-- Tenants with full lines, the next $2 after $1, and whether they have room again. Counted without a lock, so that looking
-- keeps no claim from counting: turn_capped makes sure.
select f.tenant, coalesce(t.max_running > running_of(f.tenant), true) as room
from (select distinct tenant from flow where state = 3 and tenant > $1 order by tenant limit $2) as f
join tenant t on t.id = f.tenant
order by f.tenant;

-- name: claim_alone
-- Claims one run whose gate is `alone`: it lost its workers again and again, and runs in a process of its own. Its line is
-- charged nothing now and all that it cost at its end.
with room as materialized (
    select tenant_room(t.id) as runs from queue q join tenant t on t.id = q.tenant where q.run_id = $2 and t.max_running is not null
), claimed as (
    update queue q
    set state = 1, gate = null, worker = $1, fence = (((q.fence >> 16) + 1) << 16) | $3::bigint, next_seq = q.next_seq + 1,
        started_at = coalesce(q.started_at, statement_timestamp())
    where q.run_id = $2 and q.state = 0 and q.gate = 'alone' and q.lost < 3 -- else it is poison, and about to be ended
        and (not exists (select from room) or (select runs > 0 from room))
    returning q.*
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select c.run_id, c.next_seq - 1, 'claimed', statement_timestamp(), 'worker', $1::text,
        '{"attempt":' || (1 + c.errors + c.lost) || ',"alone":true}'
    from claimed c
)
select c.run_id, c.fence, c.next_seq, c.errors, c.lost, c.started_at, c.steps, c.llm_calls, c.class, c.tenant, 0::bigint as est_nano, c.cancelled_by,
    r.version, r.input, r.metadata::text as metadata, r.created_at, r.deadline_at, r.predicted_start_at, r.max_attempts, r.budget_nano, r.lane, r.key_id,
    r.webhook_url is not null as hooked, t.weight, t.weight as tenant_weight, c.place, exists (select from room) as capped
from claimed c join tenant t on t.id = c.tenant join run r on r.id = c.run_id and r.id = any (array[$2]);

-- name: find_alone
-- Runs that wait for a process of their own, oldest first; not those whose tenant may start none now.
select q.run_id from queue q join tenant t on t.id = q.tenant
where q.gate = 'alone' and q.state = 0 and q.lost < 3 and q.lane = any ($1::text[]) and q.class = any ($2::text[])
    and (t.max_running is null or t.max_running > running_of(q.tenant))
order by q.place limit $3;

-- name: look_for_work
-- What an idle worker asks instead of claiming: of the given lanes, those with a runnable run of the given classes, and
-- whether more than one tenant has keys or runs. (An `exists` is planned as a hash of the whole backlog, and
-- without the order as a scan of it.)
select array(
    select distinct l.lane from unnest($1::text[]) as l (lane) cross join unnest($2::text[]) as c (class)
    cross join lateral (
        select from queue q where q.lane = l.lane and q.class = c.class and q.state = 0 and q.gate is null
        order by q.tenant, q.place limit 1
    ) as one
) as lanes, least((select min(tenant) from api_key), (select min(tenant) from flow))
    <> greatest((select max(tenant) from api_key), (select max(tenant) from flow)) as shared;

-- name: oldest_place
-- The place of the oldest run at the heads of a lane's least served lines: how long its work has waited.
select min(h.place) as place
from unnest($2::text[]) as c (class)
cross join lateral (
    select o.tenant, o.head from flow o where o.lane = $1 and o.class = c.class and o.state = 0 order by o.vtime limit $3
) as f
cross join lateral (
    select r.place from queue r
    where r.lane = $1 and r.class = c.class and r.tenant = f.tenant and r.state = 0 and r.gate is null and r.place >= f.head
    order by r.place limit 1
) as h;
