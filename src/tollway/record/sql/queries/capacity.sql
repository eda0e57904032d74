-- name: lock_capacity
-- The routes of an exchange, locked in order of their names. Who is stopped while it holds them must not hold up the
-- others, so that this transaction is given up after a second of silence.
select route, fresh, state::text as state, set_config('idle_in_transaction_session_timeout', '1000', true)
from capacity_route
where route = any ($1::text[])
order by route
for no key update

-- name: read_capacity_leases
-- The database's time, and every lease of these routes. A statement of its own, after the locks: it sees what the last
-- holder wrote.
select extract(epoch from clock_timestamp())::double precision as now, l.route, l.process, l.lease::text as lease
from (select) one
left join capacity_lease l on l.route = any ($1::text[])

-- name: write_capacity
-- What became of the routes ($1, $2); leases that ended ($3, $4); leases of this process $5 that go on ($6, $7).
with states as (
    update capacity_route r set state = s.state::jsonb
    from unnest($1::text[], $2::text[]) as s (route, state)
    where r.route = s.route
), ended as (
    delete from capacity_lease l using unnest($3::text[], $4::bigint[]) as e (route, process)
    where l.route = e.route and l.process = e.process
)
insert into capacity_lease (route, process, lease)
select n.route, $5, n.lease::jsonb from unnest($6::text[], $7::text[]) as n (route, lease)
on conflict (route, process) do update set lease = excluded.lease

-- name: enter_capacity_routes
-- Routes seen for the first time, or for the first time since the server lost the leases: then they are not fresh.
with fresh as (
    insert into capacity_book (route) select unnest($1::text[]) on conflict (route) do nothing returning route
)
insert into capacity_route (route, fresh)
select n.route, exists (select from fresh f where f.route = n.route) from unnest($1::text[]) as n (route)
on conflict (route) do nothing

-- name: read_capacity_book
-- What is spent of the day, of routes whose state was lost.
select route, day, day_tokens from capacity_book where route = any ($1::text[])

-- name: write_capacity_book
-- What is spent of the day; it outlives a crash.
update capacity_book b set day = d.day, day_tokens = d.day_tokens
from unnest($1::text[], $2::int[], $3::double precision[]) as d (route, day, day_tokens)
where b.route = d.route
