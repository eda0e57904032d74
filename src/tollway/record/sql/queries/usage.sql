-- name: read_usage
-- Usage in groups, sorted by them. $1, $2, $3 are the units of rows to add up (see domain.usage.Unit), $4 says which of GROUPS are
-- asked for, $5 which part of usage_run has each run of such a group once, $6 to $13 what is meant (null: any), $14 is the last
-- group of the page before, $15 how many groups at most.
with units as materialized (
    select u.span, u.begins
    from unnest($1::text[], $2::date[], $3::bool[]) as u (span, begins, inside), usage_cursor c
    where not u.inside or u.begins >= c.folded
), called as (
    select case when 'day' = any ($4::text[]) then u.begins::text else '' end as day,
        case when 'tenant' = any ($4) then u.tenant else '' end as tenant,
        case when 'agent' = any ($4) then u.agent else '' end as agent,
        case when 'lane' = any ($4) then u.lane else '' end as lane,
        case when 'tier' = any ($4) then u.tier else '' end as tier,
        case when 'route' = any ($4) then u.route else '' end as route,
        case when 'step' = any ($4) then u.step else '' end as step,
        case when 'key' = any ($4) then u.key_id else '' end as key,
        case when 'task_type' = any ($4) then u.task_type else '' end as task_type,
        sum(u.calls)::bigint as calls, sum(u.hits)::bigint as hits, sum(u.input_tokens)::bigint as input_tokens,
        sum(u.output_tokens)::bigint as output_tokens, sum(u.cached_tokens)::bigint as cached_tokens,
        sum(u.cost_nano)::bigint as cost_nano, sum(u.unknown_nano)::bigint as unknown_nano,
        sum(u.saved_cache_nano)::bigint as saved_cache_nano, sum(u.saved_flight_nano)::bigint as saved_flight_nano,
        sum(u.saved_prompt_nano)::bigint as saved_prompt_nano, sum(u.saved_shift_nano)::bigint as saved_shift_nano
    from units d join usage_call u on u.span = d.span and u.begins = d.begins
    where ($6::text is null or u.tenant = $6) and ($7::text is null or u.agent = $7) and ($8::text is null or u.lane = $8)
        and ($9::text is null or u.tier = $9) and ($10::text is null or u.route = $10) and ($11::text is null or u.step = $11)
        and ($12::text is null or u.key_id = $12) and ($13::text is null or u.task_type = $13)
    group by 1, 2, 3, 4, 5, 6, 7, 8, 9
), ended as (
    select case when 'day' = any ($4) then u.begins::text else '' end as day,
        case when 'tenant' = any ($4) then u.tenant else '' end as tenant,
        case when 'agent' = any ($4) then u.agent else '' end as agent,
        case when 'lane' = any ($4) then u.lane else '' end as lane,
        case when 'tier' = any ($4) then u.tier else '' end as tier,
        case when 'route' = any ($4) then u.route else '' end as route,
        case when 'step' = any ($4) then u.step else '' end as step,
        case when 'key' = any ($4) then u.key_id else '' end as key,
        case when 'task_type' = any ($4) then u.task_type else '' end as task_type,
        sum(u.runs)::bigint as runs
    from units d join usage_run u on u.part = $5 and u.span = d.span and u.begins = d.begins
    where ($6::text is null or u.tenant = $6) and ($7::text is null or u.agent = $7) and ($8::text is null or u.lane = $8)
        and ($9::text is null or u.tier = $9) and ($10::text is null or u.route = $10) and ($11::text is null or u.step = $11)
        and ($12::text is null or u.key_id = $12) and ($13::text is null or u.task_type = $13)
    group by 1, 2, 3, 4, 5, 6, 7, 8, 9
), both_sides as (
    select day collate "C" as day, tenant, agent, lane, tier, route, step, key, task_type, coalesce(e.runs, 0) as runs,
        coalesce(c.calls, 0) as calls, coalesce(c.hits, 0) as hits, coalesce(c.input_tokens, 0) as input_tokens,
        coalesce(c.output_tokens, 0) as output_tokens, coalesce(c.cached_tokens, 0) as cached_tokens,
        coalesce(c.cost_nano, 0) as cost_nano, coalesce(c.unknown_nano, 0) as unknown_nano,
        coalesce(c.saved_cache_nano, 0) as saved_cache_nano, coalesce(c.saved_flight_nano, 0) as saved_flight_nano,
        coalesce(c.saved_prompt_nano, 0) as saved_prompt_nano, coalesce(c.saved_shift_nano, 0) as saved_shift_nano
    from called c full join ended e using (day, tenant, agent, lane, tier, route, step, key, task_type)
)
select * from both_sides
where $14::text[] is null or (day, tenant, agent, lane, tier, route, step, key, task_type)
    > ($14[1], $14[2], $14[3], $14[4], $14[5], $14[6], $14[7], $14[8], $14[9])
order by day, tenant, agent, lane, tier, route, step, key, task_type
limit $15;

-- name: read_usage_runs
-- Ended runs by agent (and tenant, if $4): how many, in which states, what they made and cost in all; sorted. Units as above.
with units as materialized (
    select u.span, u.begins
    from unnest($1::text[], $2::date[], $3::bool[]) as u (span, begins, inside), usage_cursor c
    where not u.inside or u.begins >= c.folded
)
select case when $4::bool then u.tenant end as tenant, u.agent, u.state, sum(u.runs)::bigint as runs, sum(u.calls)::bigint as calls,
    sum(u.cost_nano)::bigint as cost_nano
from units d join usage_run u on u.part = 'run' and u.span = d.span and u.begins = d.begins
where ($5::text is null or u.tenant = $5) and ($6::text is null or u.agent = $6)
group by 1, 2, 3
order by 1, 2, 3;

-- name: read_usage_spread
-- How many runs of each agent (and tenant, if $4) are in each bucket of calls and of cost. The parameters are those above.
with units as materialized (
    select u.span, u.begins
    from unnest($1::text[], $2::date[], $3::bool[]) as u (span, begins, inside), usage_cursor c
    where not u.inside or u.begins >= c.folded
)
select case when $4::bool then u.tenant end as tenant, u.agent, u.measure, u.bucket::int as bucket, sum(u.runs)::bigint as runs
from units d join usage_spread u on u.span = d.span and u.begins = d.begins
where ($5::text is null or u.tenant = $5) and ($6::text is null or u.agent = $6)
group by 1, 2, 3, 4;
