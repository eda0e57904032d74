-- Lines whose money is spent are shut, so that what waits in them is not even looked at (P8).
--
-- flow.state 4 is broke: a budget that covers the line wholly (its tenant, perhaps its agent or lane; not a task type or a key,
-- which runs of one line differ in) has nothing left, or stands on its ladder's `park`, or an operator forced that. Like 2 (shut) and 3 (full) such a line
-- is in no index that a claim reads. A pause goes before it, it goes before a cap.
--
-- budget_account.exhausted_at says since when nothing is left, and exhausted_lanes of whom: `all`, or `others` while the
-- interactive lane still has the part that is kept for it. Both are null again when the period is over or money came in.
alter table flow
    drop constraint flow_state_check,
    add constraint flow_state_check check (state between 0 and 4);
create index flow_broke on flow (tenant) where state = 4;
alter table budget_account
    add column exhausted_lanes text check (exhausted_lanes in ('all', 'others')),
    -- what must be left for it to be exhausted no more
    add column exhausted_below bigint,
    add constraint budget_account_exhausted_whole check (
        (exhausted_at is null) = (exhausted_lanes is null) and (exhausted_at is null) = (exhausted_below is null)
    );
create index budget_account_exhausted on budget_account (budget) where exhausted_at is not null;
-- Budgets that park before all is spent: the keeper looks after them.
alter table budget add column parks_early boolean not null generated always as (
    'park' = any (forced) or jsonb_path_exists(ladder, '$[*] ? (@.rung == "park" && @.at_pct < 100)')
) stored;
create index budget_parking_early on budget (tenant) where parks_early;

-- What of an account is spent: by slices that are closed, and by those that live as far as they told.
create function spent_of(of_account bigint) returns bigint language sql stable as $$
    select (a.spent_nano + coalesce((select sum(s.spent_nano) from budget_slice s where s.account = a.id), 0))::bigint
    from budget_account a where a.id = of_account
$$;

-- What shuts lines of these tenants: of which agent and which lane (null: any), and whether the interactive one is spared.
create function broke_scopes(tenants text[])
    returns table (tenant text, agent text, lane text, spares boolean) language sql stable as $$
    select b.tenant, b.agent, b.lane, coalesce(a.exhausted_lanes = 'others', false) and not r.early
    from budget b
    left join budget_account a on a.budget = b.id and a.begins <= clock_timestamp() and (a.ends is null or a.ends > clock_timestamp())
    cross join lateral (
        select b.parks_early and ('park' = any (b.forced) or ('park' <> all (b.lifted) and exists (
            select from jsonb_to_recordset(b.ladder) as s (rung text, at_pct float8)
            where s.rung = 'park' and spent_of(a.id) * 100.0 >= s.at_pct * b.hard_nano
        ))) as early
    ) as r
    where b.tenant = any (tenants) and b.task_type is null and b.key_id is null
        and (r.early or (a.exhausted_at is not null and b.on_hard = 'park'))
$$;

-- Brings the lines of tenants in step with their budgets: shuts those that are broke, opens those that are not any more, which
-- enter where service stands. Returns the lanes opened. Callers that change an account or a budget do so first, in the same
-- transaction: the lock lets one tenant's lines be turned by one after the other, each with all that was committed before.
create function turn_broke(tenants text[]) returns table (opened text) language plpgsql volatile as $$
begin
    perform pg_advisory_xact_lock(hashtext('tollway.broke'), h)
    from (select distinct hashtext(t) as h from unnest(tenants) as t order by 1) as locks;
    return query
    with scopes as materialized (
        select s.* from broke_scopes(tenants) as s
    ), turning as materialized (
        select f.lane, f.class, f.tenant, f.state
        from flow f
        where f.tenant = any (tenants) and case f.state when 2 then false else (f.state = 4) <> exists (
            select from scopes s
            where s.tenant = f.tenant and coalesce(s.agent, f.class) = f.class and coalesce(s.lane, f.lane) = f.lane
                and not (s.spares and f.lane = 'interactive')
        ) end
        order by f.lane, f.class, f.tenant
        for no key update
    ), turned as (
        update flow f
        set state = case t.state when 4 then 0 else 4 end,
            vtime = case t.state when 4 then greatest(f.vtime, b.vtime) else f.vtime end,
            entered = case t.state when 4 then coalesce(b.vtime, f.entered) else f.entered end
        from turning t left join flow_floor b on b.lane = t.lane and b.class = t.class
        where f.lane = t.lane and f.class = t.class and f.tenant = t.tenant
        returning f.lane, f.state
    )
    select distinct t.lane::text from turned t where t.state = 0;
end
$$;

-- Says that a need (nano-dollars) of an account's could not be met for good. It is exhausted where less is left than a fiftieth
-- of the limit, or than twice the need, which counts up to a tenth of the limit: one large call does not shut out small ones.
-- Then the lines it covers are shut. True where it is so since now.
create function mark_exhausted(of_account bigint, need bigint) returns boolean language plpgsql volatile as $$
declare
    of_tenant text;
begin
    perform from budget_account where id = of_account for no key update;
    update budget_account a
    set exhausted_at = coalesce(a.exhausted_at, clock_timestamp()), exhausted_lanes = n.lanes, exhausted_below = n.enough
    from (
        select c.id, b.tenant, m.enough, case
            when m.left_nano < m.enough then 'all'
            when m.left_nano - (b.hard_nano * b.interactive_share)::bigint < m.enough then 'others'
        end as lanes
        from budget_account c
        join budget b on b.id = c.budget and b.hard_nano is not null
        cross join lateral (
            select b.hard_nano - spent_of(c.id) as left_nano,
                greatest(1, b.hard_nano / 50, least(2 * need, b.hard_nano / 10)) as enough
        ) as m
        where c.id = of_account and (c.ends is null or c.ends > clock_timestamp())
    ) as n
    where a.id = n.id and n.lanes is not null and n.lanes is distinct from a.exhausted_lanes
        and a.exhausted_lanes is distinct from 'all'
    returning n.tenant into of_tenant;
    if not found then
        return false;
    end if;
    perform turn_broke(array[of_tenant]);
    return true;
end
$$;

-- Accounts of these tenants that are exhausted no more: their period is over, they have no limit any more, or much more than
-- was missing is left. With `at_once` any money that is left will do: the limit was changed. Returns their budgets.
create function review_exhausted(tenants text[], at_once boolean) returns setof bigint language plpgsql volatile as $$
begin
    perform from budget_account a join budget b on b.id = a.budget
    where b.tenant = any (tenants) and a.exhausted_at is not null
    order by a.id for no key update of a;
    return query
    with well as (
        update budget_account a set exhausted_at = null, exhausted_lanes = null, exhausted_below = null
        from budget b
        where b.id = a.budget and b.tenant = any (tenants) and a.exhausted_at is not null and (
            a.ends <= clock_timestamp() or b.hard_nano is null
            or b.hard_nano - spent_of(a.id) >= case when at_once then 1 else 2 * a.exhausted_below end
        )
        returning b.id
    )
    select distinct w.id from well w;
end
$$;

-- As in 0009, but a line that is new is shut from the first where its money is spent.
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
            case
                -- the lock keeps a pause out, which would not see this line yet, until it does
                when (select t.paused from tenant t where t.id = e.tenant for share) then 2
                -- a budget that turns just now does not see it: the keeper mends that
                when exists (
                    select from broke_scopes(array[e.tenant]) as s
                    where coalesce(s.agent, e.class) = e.class and coalesce(s.lane, e.lane) = e.lane
                        and not (s.spares and e.lane = 'interactive')
                ) then 4
                else 0
            end,
            0
        from unnest(lanes, classes, tenants) as e (lane, class, tenant)
        left join flow_floor b on b.lane = e.lane and b.class = e.class
        where not exists (select from flow x where x.lane = e.lane and x.class = e.class and x.tenant = e.tenant)
        on conflict (lane, class, tenant) do update
            set state = case f.state when 1 then 0 else f.state end, head = 0;
    end if;
end
$$;
