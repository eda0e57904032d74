-- What was spent before a budget was set: by whole days from the sums of usage, so that no month of the ledger is read.
--
-- Read by `open_budget_account`, in its snapshot: what usage has counted, and the entries that it has not. Of the day in which
-- the period begins the entries themselves tell which calls belong to it. Of later days all that was entered counts, also of
-- the few calls that began before the period and ended after its first day.

create function paid_since(of_budget bigint, from_at timestamptz) returns bigint language sql stable as $$
    with b as materialized (
        select * from budget where id = of_budget
    ), counted as materialized (
        select c.snapshot, pg_snapshot_xmin(c.snapshot)::text::bigint as least,
            pg_snapshot_xmax(pg_current_snapshot())::text::bigint as coming,
            -- a database restored from a dump has other transaction numbers
            pg_snapshot_xmax(c.snapshot) <= pg_snapshot_xmax(pg_current_snapshot()) as ours
        from usage_cursor c
    ), bounds as materialized (
        select uuid7_floor(f.at) as least_id, f.next_day, f.next_day at time zone 'UTC' as midnight,
            uuid7_floor((f.next_day + interval '1 day') at time zone 'UTC') as next_id,
            (select begins from usage_call where detail = 'owner' and span = 'day' order by begins limit 1) as first_sum,
            (select begins from usage_call where detail = 'owner' and span = 'day' order by begins desc limit 1) as last_sum
        from (
            select greatest(from_at, 'epoch') as at,
                date_trunc('day', greatest(from_at, 'epoch') at time zone 'UTC') + interval '1 day' as next_day
        ) as f
    )
    select case when (select ours from counted) then (
        select coalesce(sum(u.nano), 0) from bounds o
        cross join lateral generate_series(greatest(o.next_day, o.first_sum::timestamp), o.last_sum::timestamp, interval '1 day') as day
        cross join b
        cross join lateral (
            select sum(c.cost_nano + c.unknown_nano) as nano from usage_call c
            where c.detail = 'owner' and c.span = 'day' and c.begins = day::date and c.tenant = b.tenant
                and (b.agent is null or c.agent = b.agent or (c.agent = '' and c.key_id = b.agent))
                and (b.lane is null or c.lane = b.lane) and (b.task_type is null or c.task_type = b.task_type)
                and (b.key_id is null or c.key_id = b.key_id)
        ) as u
    ) + (
        select coalesce(sum(l.nano), 0) from ledger l, b, bounds o
        where l.call_id >= (select least_id from bounds) and l.call_id < (select next_id from bounds) and l.at < o.midnight
            and l.tenant = b.tenant and (b.agent is null or coalesce(l.agent, l.key_id) = b.agent) and (b.lane is null or l.lane = b.lane)
            and (b.task_type is null or l.task_type = b.task_type) and (b.key_id is null or l.key_id = b.key_id)
    ) + (
        select coalesce(sum(l.nano), 0) from ledger l, b, bounds o, counted n
        -- the id as text, lest it is looked for by its key: that is all of the period
        where l.xid >= (select least from counted) and l.xid < (select coming from counted)
            and not pg_visible_in_snapshot(l.xid::text::xid8, n.snapshot)
            and l.at >= o.midnight and l.call_id::text collate "C" >= o.least_id::text collate "C"
            and l.tenant = b.tenant and (b.agent is null or coalesce(l.agent, l.key_id) = b.agent) and (b.lane is null or l.lane = b.lane)
            and (b.task_type is null or l.task_type = b.task_type) and (b.key_id is null or l.key_id = b.key_id)
    ) else (
        select coalesce(sum(l.nano), 0) from ledger l, b
        where l.call_id >= (select least_id from bounds)
            and l.tenant = b.tenant and (b.agent is null or coalesce(l.agent, l.key_id) = b.agent) and (b.lane is null or l.lane = b.lane)
            and (b.task_type is null or l.task_type = b.task_type) and (b.key_id is null or l.key_id = b.key_id)
    ) end::bigint
$$;
