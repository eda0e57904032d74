-- name: see_budgets
-- How far a process has read budgets: from now on its calls reserve in them.
update process set budgets_seen = $2 where id = $1 returning id

-- name: open_budget_account
-- The account of a budget's period, and whether money is granted from it yet; no row when the budget is gone.
select account, opened from open_budget_account($1, to_timestamp($2::float8), to_timestamp($3::float8))

-- name: lease_budgets
-- One lease of a process; see the function.
select * from lease_budgets(
    $1, $2, $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[]
)

-- name: read_budgets_turn
-- The last lease of a process; waits for one that is still being made.
select budgets_turn from process where id = $1 for share

-- name: close_budgets
-- Closes all slices of a process that is gone, or says so of itself.
select fold_budget_deltas($1, '{}'), close_budget_slices($1, '{}')

-- name: find_lost_budgets
-- Processes that are gone and left slices, or deltas.
select s.process from budget_slice s where not exists (select from process p where p.id = s.process)
union
select d.process from budget_delta d where not exists (select from process p where p.id = d.process)

-- name: find_refunds
-- Calls that were under way when an account was opened, and have their entries now, with what they cost. At most $1 of them.
select o.account, o.call_id, l.paid
from budget_opening o
cross join lateral (
    select sum(l.nano)::bigint as paid from ledger l where l.call_id = o.call_id and l.kind <> 'saved'
) as l
where l.paid is not null
limit $1

-- name: refund_openings
-- What such calls cost counts instead of what they had reserved; a second time is nothing.
with due as materialized (
    select * from unnest($1::bigint[], $2::uuid[], $3::bigint[]) as d (account, call_id, paid)
), locked as materialized (
    select a.id from budget_account a where a.id = any ($1::bigint[]) order by a.id for no key update
), gone as (
    delete from budget_opening o using due d join locked l on l.id = d.account
    where o.account = d.account and o.call_id = d.call_id
    returning o.account, o.nano - d.paid as back
), sums as (
    select g.account, sum(g.back)::bigint as back from gone g group by g.account
)
update budget_account a set spent_nano = a.spent_nano - s.back from sums s where a.id = s.account returning a.id
