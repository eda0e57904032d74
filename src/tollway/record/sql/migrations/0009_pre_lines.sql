-- Lines learn what their runs cost, tenants are fair to one another whatever the number of their agents, and
-- tenant.max_running holds over all processes.
--
-- flow.state 3 is full: the tenant runs as many runs as it may. Like 2 (shut), such a line is in no index that a claim reads.
-- The key begins with the tenant, whose lines are counted at a claim of several classes and turned together.
alter table flow
    add column est_nano bigint not null default 0,            -- moving average of what a run of the line cost; 0: none ended yet
    add column entered double precision not null default 0,   -- where it entered last: a refund takes it no further back
    drop constraint flow_state_check,
    add constraint flow_state_check check (state between 0 and 3),
    drop constraint flow_pkey,
    add constraint flow_pkey primary key (tenant, lane, class);
create index flow_full on flow (tenant) where state = 3;
alter table flow_floor add column est_nano bigint not null default 0;  -- the same over the class, for lines that know nothing yet
-- What a worker holds, and what of a tenant runs: one index for both, since every claim writes it.
drop index queue_held;
create index queue_held on queue (worker, tenant) where state = 1;

-- How many runs of a tenant hold a slot, by the record: asked worker by worker, of whom there are few.
create function running_of(of_tenant text) returns bigint language sql stable as $$
    with recursive holder (worker) as (
        (select q.worker from queue q where q.state = 1 order by q.worker limit 1)
        union all
        select (select q.worker from queue q where q.state = 1 and q.worker > h.worker order by q.worker limit 1)
        from holder h where h.worker is not null
    )
    select coalesce(sum((select count(*) from queue q where q.worker = h.worker and q.tenant = of_tenant and q.state = 1)), 0)::bigint
    from holder h where h.worker is not null
$$;

-- As in 0001, but remembers where a line entered, and enters a class never served before where its lane's service stands.
create or replace function enter_flows(lanes text[], classes text[], tenants text[], places bigint[]) returns void language plpgsql as $$
declare
    known integer;
    -- a claim moves `head` no nearer to now than 60 s: what enters older than 30 s must hold the line itself
    old bigint := (extract(epoch from clock_timestamp()) * 1000000)::bigint - 30000000;
begin
    with entering as (
        select * from unnest(lanes, classes, tenants, places) as e (lane, class, tenant, place)
    ), locked as materialized (
        select f.lane, f.class, f.tenant, f.state, f.head, e.place
        from entering e join flow f on f.lane = e.lane and f.class = e.class and f.tenant = e.tenant
        for key share of f
    ), reopened as (
        update flow f
        set state = case f.state when 1 then 0 else f.state end,
            head = least(f.head, l.place),
            vtime = case l.state when 1 then greatest(f.vtime, b.vtime, 0) else f.vtime end,
            entered = case l.state when 1 then coalesce(b.vtime, 0) else f.entered end
        from locked l left join flow_floor b on b.lane = l.lane and b.class = l.class
        where (l.state = 1 or l.head > l.place or l.place < old)
            and f.lane = l.lane and f.class = l.class and f.tenant = l.tenant
    )
    select count(*) into known from locked;
    if known < cardinality(lanes) then
        insert into flow as f (lane, class, tenant, vtime, entered, state, head)
        select e.lane, e.class, e.tenant, coalesce(b.vtime, 0), coalesce(b.vtime, 0),
            -- the lock keeps a pause out, which would not see this line yet, until it does
            case when (select t.paused from tenant t where t.id = e.tenant for share) then 2 else 0 end,
            0
        from unnest(lanes, classes, tenants) as e (lane, class, tenant)
        left join flow_floor b on b.lane = e.lane and b.class = e.class
        where not exists (select from flow x where x.lane = e.lane and x.class = e.class and x.tenant = e.tenant)
        on conflict (lane, class, tenant) do update
            set state = case f.state when 1 then 0 else f.state end, head = 0;
    end if;
end
$$;

-- How many more runs of a capped tenant may start, counted under a lock that everybody takes who starts runs of it or turns
-- its lines, and held to the end of the transaction; so no two claims count the same room. Null when another has the lock.
create function tenant_room(of_tenant text) returns integer language plpgsql volatile as $$
begin
    if not pg_try_advisory_xact_lock(hashtext('tollway.running'), hashtext(of_tenant)) then
        return null;
    end if;
    return (
        select least(coalesce(t.max_running, 2147483647) - running_of(of_tenant), 2147483647)
        from tenant t where t.id = of_tenant
    );
end
$$;

-- Brings the lines of capped tenants in step with their room: full ones open as soon as one more run may start, entering
-- where service stands (being capped earns no credit); open ones become full when none may. Returns the lanes opened.
-- Locks are taken in order: tenants, then lines by their lane, class and tenant, as everybody does.
create function turn_capped(tenants text[]) returns table (opened text) language plpgsql volatile as $$
declare
    roomy text[];
    full_up text[];
begin
    perform pg_advisory_xact_lock(hashtext('tollway.running'), h)
    from (select distinct hashtext(t) as h from unnest(tenants) as t order by 1) as locks;
    select coalesce(array_agg(t.id) filter (where r.free), '{}'), coalesce(array_agg(t.id) filter (where not r.free), '{}')
    into roomy, full_up
    from tenant t
    cross join lateral (
        select coalesce(t.max_running > running_of(t.id), true) as free
    ) as r
    where t.id = any (tenants);
    return query
    with turning as materialized (
        select f.lane, f.class, f.tenant, f.state from flow f
        where (f.tenant = any (roomy) and f.state = 3) or (f.tenant = any (full_up) and f.state = 0)
        order by f.lane, f.class, f.tenant
        for no key update
    ), turned as (
        update flow f
        set state = 3 - t.state,
            vtime = case t.state when 3 then greatest(f.vtime, b.vtime) else f.vtime end,
            entered = case t.state when 3 then coalesce(b.vtime, f.entered) else f.entered end
        from turning t left join flow_floor b on b.lane = t.lane and b.class = t.class
        where f.lane = t.lane and f.class = t.class and f.tenant = t.tenant
        returning f.lane, f.state
    )
    select distinct t.lane::text from turned t where t.state = 0;
end
$$;
