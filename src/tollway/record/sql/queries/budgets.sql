-- name: list_budgets
-- Every budget, in the order they were made, for the snapshot in memory.
select id, tenant, period, timezone, agent, lane, task_type, key_id, hard_nano, soft_nano, on_hard, ladder::text as ladder,
    interactive_share, forced, lifted
from budget
order by id

-- name: lock_budgets
-- Holds the accounts of a tenant's budgets, in their order, while these change. A statement of its own before put_budgets.
select a.id from budget b join budget_account a on a.budget = b.id where b.tenant = $1 order by a.id for update of a

-- name: put_budgets
-- Replaces the budgets of a tenant by those of $2. A budget is what it covers, its period and its zone: one that was there keeps
-- its id, its account and what an operator forced or lifted; those not given go, their accounts with them. New ones hold from
-- the settings' version that this makes, which is returned with the ids that are gone.
with given as materialized (
    select * from jsonb_to_recordset($2::jsonb) as g (
        period text, timezone text, agent text, lane text, task_type text, key_id text, hard_nano bigint, soft_nano bigint,
        on_hard text, ladder jsonb, interactive_share float8
    )
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
), gone as (
    delete from budget b
    where b.tenant = $1 and not exists (
        select from given g
        where (g.period, g.timezone) = (b.period, b.timezone) and g.agent is not distinct from b.agent
            and g.lane is not distinct from b.lane and g.task_type is not distinct from b.task_type
            and g.key_id is not distinct from b.key_id
    )
    returning b.id
)
select v.version, array(select id from gone order by id) as gone from bumped v

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
