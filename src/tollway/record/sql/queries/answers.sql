-- name: find_answers
-- Cached answers that are within their time, by key.
select key, value, extract(epoch from expires_at)::float8 as expires_at
from answer
where key = any ($1::bytea[]) and expires_at > now();

-- name: keep_answers
-- Keeps answers, each in the place of an earlier one. The keys are distinct and in order.
insert into answer (key, tenant, agent, value, expires_at)
select a.key, a.tenant, a.agent, a.value, to_timestamp(a.expires_at)
from unnest($1::bytea[], $2::text[], $3::text[], $4::bytea[], $5::float8[]) as a (key, tenant, agent, value, expires_at)
on conflict (key) do update
set tenant = excluded.tenant, agent = excluded.agent, value = excluded.value, expires_at = excluded.expires_at;

-- name: sweep_answers
-- Drops answers over their time, at most $1; returns how many. A row that is being replaced just now is left to its writer.
with old as materialized (
    select key from answer where expires_at <= now() order by expires_at limit $1 for update skip locked
), gone as (
    delete from answer a using old o where a.key = o.key returning 1
)
select count(*) from gone;

-- name: measure_answers
-- What the answers take on disk, indexes apart: at least what they weigh.
select pg_table_size('answer');

-- name: shed_answers
-- Drops the answers that end soonest, until those left weigh at most $1 bytes (200 a row beside its value); at most $2 rows.
-- Returns how many. The length of a value is known without reading it, as none is compressed.
with weighed as (
    select key, sum(octet_length(value) + 200) over (order by expires_at desc rows unbounded preceding) as upto from answer
), excess as materialized (
    select key from weighed where upto > $1::bigint order by upto desc limit $2
), mine as materialized (
    select a.key from answer a join excess e on e.key = a.key for update of a skip locked
), gone as (
    delete from answer a using mine m where a.key = m.key returning 1
)
select count(*) from gone;
