-- name: list_open_alerts
-- The keys of the alerts that are not over, with their kinds and subjects.
select key, kind, subject from alert where over_at is null;

-- name: raise_alerts
-- Tells of what is not open yet, and makes its webhooks due: the operator's ($7, $8; null: none) for the kinds of $9, and
-- that of its tenant. Returns the keys told.
with told as (
    insert into alert (id, tenant, kind, subject, key, data)
    select a.id, a.tenant, a.kind, a.subject, a.key, a.data::jsonb
    from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) as a (id, tenant, kind, subject, key, data)
    order by a.key
    on conflict (key) where over_at is null do nothing
    returning id, tenant, kind, key
), hooked as (
    insert into webhook_delivery (run_id, url, secret_env, due_at, alert)
    select gen_random_uuid(), h.url, h.secret_env, now(), t.id
    from told t
    cross join lateral (
        select $7::text as url, $8::text as secret_env where $7::text is not null and t.kind = any ($9::text[])
        union all
        select n.alert_url, n.alert_secret_env from tenant n where n.id = t.tenant and n.alert_url is not null
    ) as h
)
select key from told;

-- name: end_alerts
-- These are over.
update alert set over_at = clock_timestamp() where key = any ($1::text[]) and over_at is null returning key;

-- name: list_alerts
-- Alerts, newest first: of a tenant ($1), a kind ($2), told at or after the time of the id $3, before the id $4 (the page's
-- cursor), open ones only ($5); at most $6.
select id, tenant, kind, subject, data::text as data, at, over_at
from alert
where ($1::text is null or tenant = $1) and ($2::text is null or kind = $2) and id >= $3::uuid
    and ($4::uuid is null or id < $4::uuid) and (not $5::boolean or over_at is null)
order by id desc
limit $6;

-- name: read_alerts
-- Alerts by id, for their webhooks.
select id, tenant, kind, subject, data::text as data, at from alert where id = any ($1::uuid[]);

-- name: drop_old_alerts
-- Forgets alerts that were over more than $1 days ago, at most $2.
with old as (
    select id from alert where over_at < now() - make_interval(days => $1) order by id limit $2
)
delete from alert a using old o where a.id = o.id returning 1;

-- name: list_told_fallbacks
-- What live processes tell of tiers that are served by another route than theirs.
select (facts -> 'fallbacks')::text as fallbacks
from process
where facts ? 'fallbacks' and beat_at > clock_timestamp() - make_interval(secs => lease_ttl_s);
