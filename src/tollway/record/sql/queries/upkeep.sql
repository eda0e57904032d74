-- name: take_election
-- Becomes or stays the holder of an election; no row when somebody else holds it.
insert into election as e (name, holder, until) values ($1, $2, clock_timestamp() + make_interval(secs => $3))
on conflict (name) do update set holder = excluded.holder, until = excluded.until
    where e.holder = excluded.holder or e.until < clock_timestamp()
returning holder;

-- name: leave_election
-- Gives the election up, so that another keeper takes over at once.
delete from election where name = $1 and holder = $2;

-- name: list_beats
-- Every process' beat, for the watch over the dead.
select id, role, beat, lease_ttl_s from process;

-- name: forget_process
-- Takes away the row of a dead process that held nothing.
delete from process where id = $1 returning id;

-- name: drop_old_idempotency
-- Forgets idempotency keys after more than a day, a bounded number at a time.
with old as (
    select tenant, key from idempotency where created_at < now() - interval '25 hours' limit $1
)
delete from idempotency i using old o where i.tenant = o.tenant and i.key = o.key returning 1;

-- name: make_coming_partitions
-- The partitions of today and the next two weeks.
select make_partitions((now() at time zone 'UTC')::date + d) from generate_series(-1, 14) as d;

-- name: list_partition_days
-- Which partitions there are, by noun and first day.
select p.relname::text as noun, right(c.relname, case p.relname when 'ledger' then 6 else 8 end) as stamp
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
join pg_class p on p.oid = i.inhparent
where p.relname in ('run', 'step', 'event', 'ledger') and p.relnamespace = 'public'::regnamespace
order by 1, 2;

-- name: drop_partition
-- Drops one partition unless a live run began in it; true when it is gone.
select drop_partition($1, $2);

-- name: drop_old_dead_letters
-- Forgets dead letters whose runs are gone with their partitions, a bounded number at a time.
with old as (
    select run_id from dead_letter
    where run_id < (
        select uuid7_floor(min(to_date(right(c.relname, 8), 'YYYYMMDD'))::timestamp at time zone 'UTC')
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'run'::regclass
    )
    order by run_id
    limit $1
)
delete from dead_letter d using old o where d.run_id = o.run_id returning 1;

-- name: drop_old_accounts
-- Forgets periods of budgets that were over a week ago and that no process spends of any more, a bounded number at a time.
-- What was spent in them stands in the ledger.
with old as (
    select a.id from budget_account a
    where a.ends < now() - interval '8 days' and not exists (select from budget_slice s where s.account = a.id)
    limit $1
)
delete from budget_account a using old o where a.id = o.id returning 1;

-- name: find_stuck
-- Whether any line is full, whether any is shut for want of money or may be (an account is exhausted, or a budget parks before all
-- is spent), and whether a run waits that somebody wants cancelled: idle, this is all that a look asks for.
select (select f.tenant from flow f where f.state = 3 order by f.tenant limit 1) is not null as full_lines,
    (select f.tenant from flow f where f.state = 4 order by f.tenant limit 1) is not null
        or (select a.budget from budget_account a where a.exhausted_at is not null order by a.budget limit 1) is not null
        or (select b.tenant from budget b where b.parks_early order by b.tenant limit 1) is not null as broke,
    (
        select q.cancelled_by from queue q where q.cancelled_by is not null and q.state <> 1 order by q.cancelled_by limit 1
    ) is not null as cancelled;
