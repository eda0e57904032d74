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
        coalesce(tier, '') as tier, coalesce(route, '') as route, coalesce(step, '') as step, coalesce(key_id, '') as key_id,
        coalesce(task_type, '') as task_type, count(*) as entries,
        count(*) filter (where kind in ('settle', 'unknown') and route is not null) as calls,
        count(*) filter (where kind = 'saved') as hits,
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
        coalesce(metadata ->> 'task_type', '') as task_type, coalesce(llm_calls, 0) as calls, coalesce(cost_nano, 0) as cost_nano
    from run
    where ended_xid >= $3::bigint and ended_xid < $6::bigint
        and (ended_xid < $5::bigint or pg_visible_in_snapshot(ended_xid::text::xid8, $2::text::pg_snapshot))
        and (ended_xid >= $4::bigint or not pg_visible_in_snapshot(ended_xid::text::xid8, $1::text::pg_snapshot))
), made as materialized (
    select distinct run_id, coalesce(tier, '') as tier, coalesce(route, '') as route, coalesce(step, '') as step
    from ledger
    where run_id = any (array(select id from ended)) and kind <> 'release'
        and call_id >= (select uuid7_floor(min(created_at) - interval '1 day') from ended)
), parts as (
    select id, 'run' as part, '' as tier, '' as route, '' as step from ended
    union all
    select distinct m.run_id, p.part, case when p.tier then m.tier else '' end, case when p.route then m.route else '' end,
        case when p.step then m.step else '' end
    from made m
    cross join (values
        ('tier', true, false, false), ('route', true, true, false), ('step', false, false, true),
        ('tier step', true, false, true), ('route step', true, true, true)
    ) as p (part, tier, route, step)
), fresh as materialized (
    select o.detail, p.part, e.day, o.tenant, o.agent, o.lane, o.key_id, o.task_type,
        case when p.part = 'run' and o.detail <> 'tenant' then e.state else '' end as state, p.tier, p.route, p.step, count(*) as runs,
        sum(case p.part when 'run' then e.calls else 0 end)::bigint as calls,
        sum(case p.part when 'run' then e.cost_nano else 0 end)::bigint as cost_nano
    from parts p
    join ended e on e.id = p.id
    cross join lateral (values
        ('owner', e.tenant, e.agent, e.lane, e.key_id, e.task_type), ('tenant', e.tenant, '', '', '', ''),
        ('whole', '', e.agent, e.lane, '', e.task_type)
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
), measured as materialized (
    select e.day, o.tenant, e.agent, m.measure, m.bucket, count(*) as runs
    from ended e cross join lateral (values (e.tenant), ('')) as o (tenant)
    cross join lateral (values ('calls', usage_bucket(e.calls)), ('cost', usage_bucket(e.cost_nano))) as m (measure, bucket)
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
