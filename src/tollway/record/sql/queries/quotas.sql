-- name: list_token_tenants
-- Tenants whose tokens are counted.
select id from tenant where tokens_per_min is not null or tokens_per_day is not null

-- name: save_quota_use
-- Adds what one process counted to what stands there, in the order of the keys, so that two processes wait for each other
-- and never in a circle.
insert into quota_use as q (span, begins, tenant, tokens)
select u.span, to_timestamp(u.begins), u.tenant, u.tokens
from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) as u (span, begins, tenant, tokens)
order by 1, 2, 3
on conflict (span, begins, tenant) do update set tokens = q.tokens + excluded.tokens

-- name: read_quota_use
-- What all processes counted: the slices from $1 on and the day $2, epoch seconds.
select span, extract(epoch from begins)::bigint as begins, tenant, tokens from quota_use
where span = 'slice' and begins >= to_timestamp($1::bigint)
union all
select span, extract(epoch from begins)::bigint, tenant, tokens from quota_use
where span = 'day' and begins = to_timestamp($2::bigint)

-- name: sweep_quota_use
-- Takes away slices that no minute reaches any more, and days past a week.
delete from quota_use
where (span = 'slice' and begins < now() - interval '5 minutes') or (span = 'day' and begins < now() - interval '8 days')

-- name: count_queued
-- Queued runs of each tenant, up to a few more than its bound ($2), of those with an id below $3: later ones are counted by
-- who accepted them. A probe of the index for each lane ($4) and agent, and one for what a gate holds back.
select t.tenant, (
    select count(*)::bigint from (
        select from unnest($4::text[]) as l (lane)
        cross join (select distinct a.name from agent a) as c
        cross join lateral (
            select from queue q
            where q.lane = l.lane and q.class = c.name and q.tenant = t.tenant and q.state = 0 and q.gate is null and q.run_id < $3
            limit t.most + 1
        ) as one
        limit t.most + 1
    ) as free
) + (
    select count(*)::bigint from (
        select from queue q where q.tenant = t.tenant and q.gate is not null and q.state = 0 and q.run_id < $3 limit t.most + 1
    ) as held
) as queued
from unnest($1::text[], $2::bigint[]) as t (tenant, most)
