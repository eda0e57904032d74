-- name: plan_anew
-- For this transaction statements are planned for their parameters: what a report reads, and how it is grouped, differs by orders
-- of magnitude with what is asked.
select set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true);

-- name: read_usage
-- Usage in groups, sorted by them. $1, $2, $3 are the units of rows to add up (see domain.usage.Unit), $4 to $12 say which of GROUPS
-- are asked for, $13 which part of usage_run has each run of such a group once. $14 and $15 are the first and the last tenant,
-- $16 to $22 what else is meant (null: any), $23 is the last group of the page before, $24 how many groups at most,
-- $25 which of the rows tell enough apart.
-- `offset 0` has each unit's rows found by their key: a join might be planned to read all there are.
with units as materialized (
    select u.span, u.begins
    from unnest($1::text[], $2::date[], $3::date[]) as u (span, begins, upto), usage_cursor c
    where u.upto is null or case u.span when 'month' then c.folded <= u.upto else u.begins >= c.folded or c.folded > u.upto end
), called as (
    select case when $4::bool then u.begins::text else '' end as day,
        case when $5::bool then u.tenant else '' end as tenant,
        case when $6::bool then u.agent else '' end as agent,
        case when $7::bool then u.lane else '' end as lane,
        case when $8::bool then u.tier else '' end as tier,
        case when $9::bool then u.route else '' end as route,
        case when $10::bool then u.step else '' end as step,
        case when $11::bool then u.key_id else '' end as key,
        case when $12::bool then u.task_type else '' end as task_type,
        sum(u.calls)::bigint as calls, sum(u.hits)::bigint as hits, sum(u.input_tokens)::bigint as input_tokens,
        sum(u.output_tokens)::bigint as output_tokens, sum(u.cached_tokens)::bigint as cached_tokens,
        sum(u.cost_nano)::bigint as cost_nano, sum(u.unknown_nano)::bigint as unknown_nano,
        sum(u.saved_cache_nano)::bigint as saved_cache_nano, sum(u.saved_flight_nano)::bigint as saved_flight_nano,
        sum(u.saved_prompt_nano)::bigint as saved_prompt_nano, sum(u.saved_shift_nano)::bigint as saved_shift_nano
    from units d cross join lateral (
        select * from usage_call c
        where c.detail = $25 and c.span = d.span and c.begins = d.begins and c.tenant between $14 and $15 offset 0
    ) as u
    where ($16::text is null or u.agent = $16) and ($17::text is null or u.lane = $17)
        and ($18::text is null or u.tier = $18) and ($19::text is null or u.route = $19) and ($20::text is null or u.step = usage_step($20))
        and ($21::text is null or u.key_id = $21) and ($22::text is null or u.task_type = usage_task_type($22))
    group by 1, 2, 3, 4, 5, 6, 7, 8, 9
), ended as (
    select case when $4::bool then u.begins::text else '' end as day,
        case when $5::bool then u.tenant else '' end as tenant,
        case when $6::bool then u.agent else '' end as agent,
        case when $7::bool then u.lane else '' end as lane,
        case when $8::bool then u.tier else '' end as tier,
        case when $9::bool then u.route else '' end as route,
        case when $10::bool then u.step else '' end as step,
        case when $11::bool then u.key_id else '' end as key,
        case when $12::bool then u.task_type else '' end as task_type,
        sum(u.runs)::bigint as runs
    from units d cross join lateral (
        select * from usage_run r
        where r.detail = $25 and r.part = $13 and r.span = d.span and r.begins = d.begins and r.tenant between $14 and $15 offset 0
    ) as u
    where ($16::text is null or u.agent = $16) and ($17::text is null or u.lane = $17)
        and ($18::text is null or u.tier = $18) and ($19::text is null or u.route = $19) and ($20::text is null or u.step = usage_step($20))
        and ($21::text is null or u.key_id = $21) and ($22::text is null or u.task_type = usage_task_type($22))
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
where $23::text[] is null or (day, tenant, agent, lane, tier, route, step, key, task_type)
    > ($23[1], $23[2], $23[3], $23[4], $23[5], $23[6], $23[7], $23[8], $23[9])
order by day, tenant, agent, lane, tier, route, step, key, task_type
limit $24;

-- name: read_usage_runs
-- Ended runs by agent (and tenant, if $4): how many, in which states, what they made and cost in all; sorted. Units as above; $5 and $6
-- are the first and the last tenant, $7 may name an agent, $8 is which of the rows tell enough apart.
with units as materialized (
    select u.span, u.begins
    from unnest($1::text[], $2::date[], $3::date[]) as u (span, begins, upto), usage_cursor c
    where u.upto is null or case u.span when 'month' then c.folded <= u.upto else u.begins >= c.folded or c.folded > u.upto end
)
select case when $4::bool then u.tenant end as tenant, u.agent, u.state, sum(u.runs)::bigint as runs, sum(u.calls)::bigint as calls,
    sum(u.cost_nano)::bigint as cost_nano
from units d cross join lateral (
    select * from usage_run r
    where r.detail = $8 and r.part = 'run' and r.span = d.span and r.begins = d.begins and r.tenant between $5 and $6 offset 0
) as u
where ($7::text is null or u.agent = $7)
group by 1, 2, 3
order by 1, 2, 3;

-- name: read_usage_spread
-- How many runs of each agent (and tenant, if $4) are in each bucket of calls and of cost. The parameters are the first seven above.
with units as materialized (
    select u.span, u.begins
    from unnest($1::text[], $2::date[], $3::date[]) as u (span, begins, upto), usage_cursor c
    where u.upto is null or case u.span when 'month' then c.folded <= u.upto else u.begins >= c.folded or c.folded > u.upto end
)
select case when $4::bool then u.tenant end as tenant, u.agent, u.measure, u.bucket::int as bucket, sum(u.runs)::bigint as runs
from units d cross join lateral (
    select * from usage_spread s where s.span = d.span and s.begins = d.begins and s.tenant between $5 and $6 offset 0
) as u
where ($7::text is null or u.agent = $7)
group by 1, 2, 3, 4;
