-- name: lock_spend_cursor
-- How far the ledger was added up; whoever has the row is the only one to go on. `foreign`: it was seen in another cluster,
-- as after a restore, and means nothing here.
select seen::text as seen, pg_snapshot_xmax(seen) > pg_snapshot_xmax(pg_current_snapshot()) as elsewhere
from spend_cursor for update;

-- name: fold_spend
-- Adds up what has become visible in the ledger since the snapshot $1, of calls begun since the id $2 (which spares the
-- old partitions). Both bounds of xid stand there lest its BRIN index is thought to spare too little. Entries restored from
-- another cluster have numbers that are yet to come: they wait for them. At most about $3 transactions at a look, so that
-- one after a long pause ends in time: up to a number below which all have ended, which is a snapshot too.
-- Returns what was charged beyond the reservation, by route and hour.
with present as materialized (
    select p.seen, p.now, pg_snapshot_xmax(p.seen)::text::bigint as beyond, pg_snapshot_xmin(p.now)::text::bigint as settled
    from (select $1::text::pg_snapshot, pg_current_snapshot()) as p (seen, now)
), span as materialized (
    select b.seen, b.beyond, b.upto, pg_snapshot_xmin(b.seen)::text::bigint as least, pg_snapshot_xmax(b.upto)::text::bigint as coming
    from (
        select p.seen, p.beyond, case when p.settled > p.beyond + $3::bigint
            then format('%s:%s:', p.beyond + $3::bigint, p.beyond + $3::bigint)::pg_snapshot else p.now end as upto
        from present p
    ) as b
), fresh as materialized (
    select l.tenant, l.route, l.kind, l.nano, l.at
    from ledger l
    where l.xid >= (select s.least from span s) and l.xid < (select s.coming from span s) and l.call_id >= $2::uuid
        and (l.xid >= (select s.beyond from span s) or not pg_visible_in_snapshot(l.xid::text::xid8, (select s.seen from span s)))
        and pg_visible_in_snapshot(l.xid::text::xid8, (select s.upto from span s))
), added as (
    insert into spend_minute as m (minute, tenant, nano)
    select date_trunc('minute', at) as minute, tenant, sum(nano)
    from fresh where nano > 0 and kind in ('settle', 'unknown', 'adjust') group by 1, 2 order by 1, 2
    on conflict (minute, tenant) do update set nano = m.nano + excluded.nano
), moved as (
    -- not at every look of an idle system
    update spend_cursor c set seen = s.upto from span s
    where exists (select from fresh) or s.coming > s.beyond + 1000
)
select route, date_trunc('hour', at, 'UTC') as hour, count(*) as calls, sum(nano)::bigint as nano
from fresh
where kind = 'adjust'
group by 1, 2;

-- name: restart_spend_cursor
-- Counts from now on.
update spend_cursor set seen = pg_current_snapshot();

-- name: close_spend_hours
-- Adds whole hours up from their minutes, also those that had late entries, and forgets minutes of hours long over.
with closed as (
    insert into spend_hour as h (tenant, hour, nano)
    select tenant, date_trunc('hour', minute, 'UTC'), sum(nano) from spend_minute where minute < $1::timestamptz group by 1, 2 order by 1, 2
    on conflict (tenant, hour) do update set nano = greatest(h.nano, excluded.nano)
)
delete from spend_minute where minute < $1::timestamptz - interval '3 hours';

-- name: drop_old_spend_hours
-- Forgets hours before $1, at most $2.
with old as (
    select tenant, hour from spend_hour where hour < $1::timestamptz limit $2
)
delete from spend_hour h using old o where h.tenant = o.tenant and h.hour = o.hour returning 1;

-- name: read_spend_lately
-- What tenants spent since $1 and since $2 (earlier), of those that spent at least $3 in the longer time or are named in $4.
select tenant, coalesce(sum(nano) filter (where minute >= $1::timestamptz), 0)::bigint as short, sum(nano)::bigint as long
from spend_minute
where minute >= $2::timestamptz
group by tenant
having sum(nano) >= $3::bigint or tenant = any ($4::text[]);

-- name: read_spend_past
-- What tenants spent in whole hours from $2 to before $3, by the hour's number since the epoch.
select tenant, (extract(epoch from hour) / 3600)::bigint as hour, nano
from spend_hour
where tenant = any ($1::text[]) and hour >= $2::timestamptz and hour < $3::timestamptz;

-- name: read_spending
-- The present period of each budget: its limits, what was spent of it, and how fast that went when it was last looked at.
with unfolded as materialized (
    select d.account, sum(e.spent_nano) as nano from budget_delta e, unnest(e.accounts) as d (account) group by 1
)
select a.id as account, b.id as budget, b.tenant, b.period, b.hard_nano, b.soft_nano, extract(epoch from a.ends)::float8 as ends_at,
    (
        a.spent_nano + coalesce(d.nano, 0) + coalesce((select sum(s.spent_nano) from budget_slice s where s.account = a.id), 0)
    )::bigint as spent_nano,
    a.exhausted_lanes as exhausted,
    extract(epoch from u.since)::float8 as since, u.since_nano, extract(epoch from u.at)::float8 as burn_at, u.spent_nano as burn_nano, u.faded
from budget b
join budget_account a on a.budget = b.id
left join unfolded d on d.account = a.id
left join budget_burn u on u.account = a.id
where a.begins <= now() and (a.ends is null or a.ends > now())
order by a.id;

-- name: note_burns
-- Keeps how fast the money of periods goes.
insert into budget_burn as u (account, since, since_nano, at, spent_nano, faded)
select account, to_timestamp(since), since_nano, to_timestamp(at), spent_nano, faded
from unnest($1::bigint[], $2::float8[], $3::bigint[], $4::float8[], $5::bigint[], $6::float8[])
    as n (account, since, since_nano, at, spent_nano, faded)
order by account
on conflict (account) do update set at = excluded.at, spent_nano = excluded.spent_nano, faded = excluded.faded;

-- name: drop_old_burns
-- Forgets those of periods that are over or gone.
delete from budget_burn u
where not exists (select from budget_account a where a.id = u.account and (a.ends is null or a.ends > now()));

-- name: read_burns
-- How fast the money of a tenant's present periods goes, by budget.
select a.budget, extract(epoch from u.since)::float8 as since, u.since_nano, extract(epoch from u.at)::float8 as at, u.spent_nano, u.faded
from budget b
join budget_account a on a.budget = b.id
join budget_burn u on u.account = a.id
where b.tenant = $1 and a.begins <= now() and (a.ends is null or a.ends > now());
