-- name: find_uncounted
-- Whether anything was written since the cursor, or a day is over: idle, this is all that a look asks for. (It counts, lest
-- it be planned to walk a whole table until it finds one.)
select (
        select count(*) from ledger l
        where l.xid >= pg_snapshot_xmin(c.snapshot)::text::bigint and not pg_visible_in_snapshot(l.xid::text::xid8, c.snapshot)
    ) > 0 or (
        select count(*) from run r
        where r.ended_xid >= pg_snapshot_xmin(c.snapshot)::text::bigint
            and not pg_visible_in_snapshot(r.ended_xid::text::xid8, c.snapshot)
    ) > 0 or c.folded < (clock_timestamp() at time zone 'UTC')::date as uncounted
from usage_cursor c;

-- name: lock_usage_cursor
-- The cursor, held until this transaction ends; no row while another counts.
select snapshot::text as snapshot, folded, (clock_timestamp() at time zone 'UTC')::date as today from usage_cursor for update skip locked;

-- name: present_snapshot
-- Which transactions have ended by now. Asked for once the cursor is held, so it knows of all that the cursor does.
select pg_current_snapshot()::text as snapshot;

-- name: move_usage_cursor
-- All that snapshot $1 sees is counted.
update usage_cursor set snapshot = $1::text::pg_snapshot, at = clock_timestamp();

-- name: count_entries
-- Adds up the ledger's entries that snapshot $2 sees and $1 did not. $3 is the least number $1 may not see and $4 the first it
-- cannot see; $5 and $6 are the same of $2: most rows are judged by these alone. Days before $7 are in their month as well.
-- Returns how many they were.
with fresh as materialized (
    select (at at time zone 'UTC')::date as day, tenant, coalesce(agent, '') as agent, coalesce(lane, '') as lane,
        coalesce(tier, '') as tier, coalesce(route, '') as route, usage_step(step) as step, coalesce(key_id, '') as key_id,
        usage_task_type(task_type) as task_type, count(*) as entries,
        count(*) filter (where kind in ('settle', 'unknown') and route is not null) as calls,
        count(*) filter (where kind = 'saved' and route is not null) as hits,
        sum(input_tokens)::bigint as input_tokens, sum(output_tokens)::bigint as output_tokens,
        sum(cached_tokens)::bigint as cached_tokens,
        coalesce(sum(nano) filter (where kind <> 'unknown'), 0)::bigint as cost_nano,
        coalesce(sum(nano) filter (where kind = 'unknown'), 0)::bigint as unknown_nano,
        coalesce(sum(saved_nano) filter (where cached is distinct from 'flight'), 0)::bigint as saved_cache_nano,
        coalesce(sum(saved_nano) filter (where cached = 'flight'), 0)::bigint as saved_flight_nano,
        coalesce(sum(saved_prompt_nano), 0)::bigint as saved_prompt_nano,
        coalesce(sum(saved_shift_nano), 0)::bigint as saved_shift_nano
    from ledger
    where xid >= $3::bigint and xid < $6::bigint and kind <> 'release'
        and (xid < $5::bigint or pg_visible_in_snapshot(xid::text::xid8, $2::text::pg_snapshot))
        and (xid >= $4::bigint or not pg_visible_in_snapshot(xid::text::xid8, $1::text::pg_snapshot))
    group by 1, 2, 3, 4, 5, 6, 7, 8, 9
), added as materialized (
    select o.detail, f.day, o.tenant, o.agent, o.lane, f.tier, o.route, o.step, o.key_id, o.task_type, sum(f.calls)::bigint as calls,
        sum(f.hits)::bigint as hits, sum(f.input_tokens)::bigint as input_tokens, sum(f.output_tokens)::bigint as output_tokens,
        sum(f.cached_tokens)::bigint as cached_tokens, sum(f.cost_nano)::bigint as cost_nano,
        sum(f.unknown_nano)::bigint as unknown_nano, sum(f.saved_cache_nano)::bigint as saved_cache_nano,
        sum(f.saved_flight_nano)::bigint as saved_flight_nano, sum(f.saved_prompt_nano)::bigint as saved_prompt_nano,
        sum(f.saved_shift_nano)::bigint as saved_shift_nano
    from fresh f
    cross join lateral (values
        ('owner', f.tenant, f.agent, f.lane, f.route, f.step, f.key_id, f.task_type),
        ('tenant', f.tenant, '', '', '', '', '', ''), ('whole', '', f.agent, f.lane, f.route, f.step, '', f.task_type)
    ) as o (detail, tenant, agent, lane, route, step, key_id, task_type)
    group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
), summed as (
    insert into usage_call as u (
        detail, span, begins, tenant, agent, lane, tier, route, step, key_id, task_type, calls, hits, input_tokens, output_tokens,
        cached_tokens, cost_nano, unknown_nano, saved_cache_nano, saved_flight_nano, saved_prompt_nano, saved_shift_nano
    )
    select detail, 'day', day, tenant, agent, lane, tier, route, step, key_id, task_type, calls, hits, input_tokens, output_tokens,
        cached_tokens, cost_nano, unknown_nano, saved_cache_nano, saved_flight_nano, saved_prompt_nano, saved_shift_nano
    from added
    union all
    select detail, 'month', date_trunc('month', day::timestamp)::date, tenant, agent, lane, tier, route, step, key_id, task_type,
        sum(calls)::bigint, sum(hits)::bigint, sum(input_tokens)::bigint, sum(output_tokens)::bigint, sum(cached_tokens)::bigint,
        sum(cost_nano)::bigint, sum(unknown_nano)::bigint, sum(saved_cache_nano)::bigint, sum(saved_flight_nano)::bigint,
        sum(saved_prompt_nano)::bigint, sum(saved_shift_nano)::bigint
    from added where day < $7::date
    group by 1, 3, 4, 5, 6, 7, 8, 9, 10, 11
    on conflict (detail, span, begins, tenant, agent, lane, tier, route, step, key_id, task_type) do update
    set calls = u.calls + excluded.calls, hits = u.hits + excluded.hits,
        input_tokens = u.input_tokens + excluded.input_tokens, output_tokens = u.output_tokens + excluded.output_tokens,
        cached_tokens = u.cached_tokens + excluded.cached_tokens,
        cost_nano = u.cost_nano + excluded.cost_nano, unknown_nano = u.unknown_nano + excluded.unknown_nano,
        saved_cache_nano = u.saved_cache_nano + excluded.saved_cache_nano,
        saved_flight_nano = u.saved_flight_nano + excluded.saved_flight_nano,
        saved_prompt_nano = u.saved_prompt_nano + excluded.saved_prompt_nano,
        saved_shift_nano = u.saved_shift_nano + excluded.saved_shift_nano
)
select coalesce(sum(entries), 0)::bigint as counted from fresh;

-- name: count_runs
-- Adds up the runs whose end snapshot $2 sees and $1 did not, with what they called; the parameters are those of count_entries.
-- All entries of a run are written by the time it ends, and a run's calls are younger than the run, by every clock. They are
-- found by an array, so that no plan can read the whole ledger for them. Returns how many runs they were.
with ended as materialized (
    select id, created_at, (ended_at at time zone 'UTC')::date as day, tenant, agent, lane, key_id, state,
        usage_task_type(metadata ->> 'task_type') as task_type, coalesce(llm_calls, 0) as calls, coalesce(cost_nano, 0) as cost_nano
    from run
    where ended_xid >= $3::bigint and ended_xid < $6::bigint
        and (ended_xid < $5::bigint or pg_visible_in_snapshot(ended_xid::text::xid8, $2::text::pg_snapshot))
        and (ended_xid >= $4::bigint or not pg_visible_in_snapshot(ended_xid::text::xid8, $1::text::pg_snapshot))
), made as materialized (
    select run_id, array_agg(distinct array[coalesce(tier, ''), coalesce(route, ''), usage_step(step)]) as called
    from ledger
    where run_id = any (array(select id from ended)) and kind <> 'release'
        and call_id >= (select uuid7_floor(min(created_at) - interval '1 day') from ended)
    group by run_id
), alike as materialized (
    -- runs of one owner that called the same are one row from here on
    select row_number() over () as place, e.day, e.tenant, e.agent, e.lane, e.key_id, e.task_type, e.state, m.called,
        count(*) as runs, sum(e.calls)::bigint as calls, sum(e.cost_nano)::bigint as cost_nano
    from ended e left join made m on m.run_id = e.id
    group by e.day, e.tenant, e.agent, e.lane, e.key_id, e.task_type, e.state, m.called
), parts as (
    select place, 'run' as part, '' as tier, '' as route, '' as step, calls, cost_nano from alike
    union all
    select distinct a.place, p.part, case when p.tier then a.called[i][1] else '' end, case when p.route then a.called[i][2] else '' end,
        case when p.step then a.called[i][3] else '' end, 0, 0
    from alike a
    cross join lateral generate_series(1, array_length(a.called, 1)) as i
    cross join (values
        ('tier', true, false, false), ('route', true, true, false), ('step', false, false, true),
        ('tier step', true, false, true), ('route step', true, true, true)
    ) as p (part, tier, route, step)
), fresh as materialized (
    select o.detail, p.part, a.day, o.tenant, o.agent, o.lane, o.key_id, o.task_type,
        case when p.part = 'run' and o.detail <> 'tenant' then a.state else '' end as state, p.tier, p.route, p.step,
        sum(a.runs)::bigint as runs, sum(p.calls)::bigint as calls, sum(p.cost_nano)::bigint as cost_nano
    from parts p
    join alike a on a.place = p.place
    cross join lateral (values
        ('owner', a.tenant, a.agent, a.lane, a.key_id, a.task_type), ('tenant', a.tenant, '', '', '', ''),
        ('whole', '', a.agent, a.lane, '', a.task_type)
    ) as o (detail, tenant, agent, lane, key_id, task_type)
    where o.detail <> 'tenant' or p.part in ('run', 'tier')
    group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
), summed as (
    insert into usage_run as u (
        detail, part, span, begins, tenant, agent, lane, key_id, task_type, state, tier, route, step, runs, calls, cost_nano
    )
    select detail, part, 'day', day, tenant, agent, lane, key_id, task_type, state, tier, route, step, runs, calls, cost_nano from fresh
    union all
    select detail, part, 'month', date_trunc('month', day::timestamp)::date, tenant, agent, lane, key_id, task_type, state, tier, route, step,
        sum(runs)::bigint, sum(calls)::bigint, sum(cost_nano)::bigint
    from fresh where day < $7::date
    group by 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
    on conflict (detail, part, span, begins, tenant, agent, lane, key_id, task_type, state, tier, route, step) do update
    set runs = u.runs + excluded.runs, calls = u.calls + excluded.calls, cost_nano = u.cost_nano + excluded.cost_nano
), weighed as materialized (
    select day, tenant, agent, 'calls' as measure, usage_bucket(calls) as bucket, count(*) as runs from ended group by 1, 2, 3, 5
    union all
    select day, tenant, agent, 'cost', usage_bucket(cost_nano), count(*) from ended group by 1, 2, 3, 5
), measured as materialized (
    select w.day, o.tenant, w.agent, w.measure, w.bucket, sum(w.runs)::bigint as runs
    from weighed w cross join lateral (values (w.tenant), ('')) as o (tenant)
    group by 1, 2, 3, 4, 5
), spread as (
    insert into usage_spread as u (span, begins, tenant, agent, measure, bucket, runs)
    select 'day', day, tenant, agent, measure, bucket, runs from measured
    union all
    select 'month', date_trunc('month', day::timestamp)::date, tenant, agent, measure, bucket, sum(runs)::bigint
    from measured where day < $7::date
    group by 2, 3, 4, 5, 6
    on conflict (span, begins, tenant, agent, measure, bucket) do update set runs = u.runs + excluded.runs
)
select count(*) as counted from ended;

-- name: fold_usage
-- Takes day $1, the first that is in no month yet, into its month.
with calls as (
    insert into usage_call as u (
        detail, span, begins, tenant, agent, lane, tier, route, step, key_id, task_type, calls, hits, input_tokens, output_tokens,
        cached_tokens, cost_nano, unknown_nano, saved_cache_nano, saved_flight_nano, saved_prompt_nano, saved_shift_nano
    )
    select detail, 'month', date_trunc('month', begins::timestamp)::date, tenant, agent, lane, tier, route, step, key_id, task_type, calls,
        hits, input_tokens, output_tokens, cached_tokens, cost_nano, unknown_nano, saved_cache_nano, saved_flight_nano,
        saved_prompt_nano, saved_shift_nano
    from usage_call where detail in ('owner', 'tenant', 'whole') and span = 'day' and begins = $1::date
    on conflict (detail, span, begins, tenant, agent, lane, tier, route, step, key_id, task_type) do update
    set calls = u.calls + excluded.calls, hits = u.hits + excluded.hits,
        input_tokens = u.input_tokens + excluded.input_tokens, output_tokens = u.output_tokens + excluded.output_tokens,
        cached_tokens = u.cached_tokens + excluded.cached_tokens,
        cost_nano = u.cost_nano + excluded.cost_nano, unknown_nano = u.unknown_nano + excluded.unknown_nano,
        saved_cache_nano = u.saved_cache_nano + excluded.saved_cache_nano,
        saved_flight_nano = u.saved_flight_nano + excluded.saved_flight_nano,
        saved_prompt_nano = u.saved_prompt_nano + excluded.saved_prompt_nano,
        saved_shift_nano = u.saved_shift_nano + excluded.saved_shift_nano
), runs as (
    insert into usage_run as u (
        detail, part, span, begins, tenant, agent, lane, key_id, task_type, state, tier, route, step, runs, calls, cost_nano
    )
    select detail, part, 'month', date_trunc('month', begins::timestamp)::date, tenant, agent, lane, key_id, task_type, state, tier, route,
        step, runs, calls, cost_nano
    from usage_run
    where detail in ('owner', 'tenant', 'whole') and part in ('run', 'tier', 'route', 'step', 'tier step', 'route step') and span = 'day' and begins = $1::date
    on conflict (detail, part, span, begins, tenant, agent, lane, key_id, task_type, state, tier, route, step) do update
    set runs = u.runs + excluded.runs, calls = u.calls + excluded.calls, cost_nano = u.cost_nano + excluded.cost_nano
), spread as (
    insert into usage_spread as u (span, begins, tenant, agent, measure, bucket, runs)
    select 'month', date_trunc('month', begins::timestamp)::date, tenant, agent, measure, bucket, runs
    from usage_spread where span = 'day' and begins = $1::date
    on conflict (span, begins, tenant, agent, measure, bucket) do update set runs = u.runs + excluded.runs
)
update usage_cursor set folded = $1::date + 1;

-- name: summarize_xids
-- Tells the indexes of transaction numbers what is in the newest pages.
select summarize_xids();
