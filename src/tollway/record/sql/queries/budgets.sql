-- name: list_budgets
-- Every budget, in the order they were made, for the snapshot in memory.
select id, tenant, period, timezone, agent, lane, task_type, key_id, hard_nano, soft_nano, on_hard, ladder::text as ladder,
    interactive_share, forced, lifted
from budget
order by id

-- name: list_tenant_budgets
-- Those of one tenant, in the same order.
select id, tenant, period, timezone, agent, lane, task_type, key_id, hard_nano, soft_nano, on_hard, ladder::text as ladder,
    interactive_share, forced, lifted
from budget
where tenant = $1
order by id

-- name: lock_budgets
-- Holds the accounts of a tenant's budgets, in their order, while these change. A statement of its own before put_budgets.
select a.id from budget b join budget_account a on a.budget = b.id where b.tenant = $1 order by a.id for update of a

-- name: put_budgets
-- Replaces the budgets of a tenant by those of $2. A budget is what it covers, its period and its zone: one that was there keeps
-- its id, its account and what an operator forced or lifted; those not given go, their accounts with them. New ones hold from
-- the settings' version that this makes. Returns it with the budgets of whom runs may wait in vain now: those that are gone,
-- or have more money or other ways.
with given as materialized (
    select * from jsonb_to_recordset($2::jsonb) as g (
        period text, timezone text, agent text, lane text, task_type text, key_id text, hard_nano bigint, soft_nano bigint,
        on_hard text, ladder jsonb, interactive_share float8
    )
), before as materialized (
    select b.id, g.period is null or g.hard_nano is null or g.hard_nano > b.hard_nano
        or (g.on_hard, g.interactive_share, g.ladder) is distinct from (b.on_hard, b.interactive_share, b.ladder) as eased
    from budget b
    left join given g on (g.period, g.timezone) = (b.period, b.timezone) and g.agent is not distinct from b.agent
        and g.lane is not distinct from b.lane and g.task_type is not distinct from b.task_type
        and g.key_id is not distinct from b.key_id
    where b.tenant = $1
), bumped as (
    update settings_version set version = version + 1 returning version
), put as (
    insert into budget as b (
        tenant, period, timezone, agent, lane, task_type, key_id, hard_nano, soft_nano, on_hard, ladder, interactive_share, since_version
    )
    select $1, g.period, g.timezone, g.agent, g.lane, g.task_type, g.key_id, g.hard_nano, g.soft_nano, g.on_hard, g.ladder,
        g.interactive_share, v.version
    from given g cross join bumped v
    on conflict (tenant, agent, lane, task_type, key_id, period, timezone) do update set
        hard_nano = excluded.hard_nano, soft_nano = excluded.soft_nano, on_hard = excluded.on_hard, ladder = excluded.ladder,
        interactive_share = excluded.interactive_share, updated_at = now()
    where (b.hard_nano, b.soft_nano, b.on_hard, b.ladder, b.interactive_share) is distinct from
        (excluded.hard_nano, excluded.soft_nano, excluded.on_hard, excluded.ladder, excluded.interactive_share)
), gone as (
    delete from budget b
    where b.tenant = $1 and not exists (
        select from given g
        where (g.period, g.timezone) = (b.period, b.timezone) and g.agent is not distinct from b.agent
            and g.lane is not distinct from b.lane and g.task_type is not distinct from b.task_type
            and g.key_id is not distinct from b.key_id
    )
)
select v.version, array(select id from before where eased order by id) as eased from bumped v

-- name: review_exhausted
-- Which budgets of the tenants $1 are exhausted no more; with $2 any money that is left will do.
select budget from review_exhausted($1::text[], $2) as budget

-- name: turn_broke
-- Shuts and opens the lines of the tenants $1 by what their budgets have left. Returns the lanes opened.
select opened from turn_broke($1::text[])

-- name: hasten_gates
-- Has the gates $1 open now to whoever stands there until a later moment, at most $2 runs (null: all); returns how many. They
-- open to him as to those that are due. A run that somebody else holds just now is left to its own time.
with waiting as materialized (
    select q.run_id from queue q where q.gate = any ($1::text[]) and q.opens_at > (select clock_timestamp())
    limit $2 for update skip locked
), hastened as (
    update queue q set opens_at = clock_timestamp() from waiting w where q.run_id = w.run_id returning 1
)
select count(*) as runs from hastened

-- name: mark_exhausted
-- Whether account $1 is exhausted since now, for it could not meet the need $2 for good.
select mark_exhausted($1, $2) as marked

-- name: find_broke
-- Tenants whose lines are shut for want of money or may have to be, the next $2 after $1.
select tenant
from (
    select tenant from flow where state = 4 and tenant > $1
    union
    select b.tenant from budget_account a join budget b on b.id = a.budget where a.exhausted_at is not null and b.tenant > $1
    union
    select b.tenant from budget b where b.parks_early and b.tenant > $1
) as t
order by tenant
limit $2

-- name: find_stale_gates
-- Gates of budgets that somebody may have come to too late to see that they opened: the budget is gone, or was changed within $1 seconds.
with recursive standing (gate) as (
    select min(gate) from queue where gate >= 'budget:' and gate < 'budget;'
    union all
    select (select min(q.gate) from queue q where q.gate > s.gate and q.gate < 'budget;') from standing s where s.gate is not null
)
select s.gate
from standing s left join budget b on s.gate = 'budget:' || b.id
where s.gate is not null and (b.id is null or b.updated_at > now() - make_interval(secs => $1))

-- name: read_budget_use
-- The present period of each budget of a tenant that has begun one: what is spent, what calls have reserved, and since when it
-- is exhausted. What closed slices spent, live ones, and what is not counted into them yet is one sum.
select a.budget, a.begins, a.ends, a.exhausted_at,
    (a.spent_nano + coalesce(s.spent, 0) + coalesce(d.spent, 0))::bigint as spent_nano,
    (coalesce(s.reserved, 0) + coalesce(d.reserved, 0))::bigint as reserved_nano
from budget b
join budget_account a on a.budget = b.id and a.begins <= now() and (a.ends is null or a.ends > now())
left join lateral (
    select sum(c.spent_nano) as spent, sum(c.reserved_nano) as reserved from budget_slice c where c.account = a.id
) as s on true
left join lateral (
    select sum(e.spent_nano) as spent, sum(e.reserved_nano) as reserved from budget_delta e where a.id = any (e.accounts)
) as d on true
where b.tenant = $1

-- name: read_accounts
-- The present periods of the budgets $1 and of all that are exhausted: what is spent, and of whom nothing is left.
select a.budget, extract(epoch from a.ends)::float8 as ends, spent_of(a.id) as spent_nano, a.exhausted_lanes
from (
    select id from budget_account where exhausted_at is not null
    union
    select id from budget_account where budget = any ($1::bigint[])
) as k
join budget_account a on a.id = k.id and a.begins <= now() and (a.ends is null or a.ends > now())
