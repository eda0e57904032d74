-- name: next_webhook
-- Seconds until the next delivery is due (negative: since when); no row when there is none. $1: hosts to leave aside.
select extract(epoch from due_at - now())::float8
from webhook_delivery
where gave_up_at is null and host <> all($1::text[])
order by due_at
limit 1;

-- name: claim_webhooks
-- Takes at most $1 due deliveries for $2 seconds, of one host at most $3, or what $4 and $5 leave it (0: it is passed over).
-- Moving due_at is the lease and `attempts` its fence: what is not settled in time is due again, for anybody.
with due as materialized (
    select w.run_id, w.host
    from webhook_delivery w
    where w.gave_up_at is null and w.due_at <= now()
        and not exists (select from unnest($4::text[], $5::int[]) as b (host, places) where b.host = w.host and b.places < 1)
    order by w.due_at
    limit $1
    for update of w skip locked
), ranked as (
    select run_id, host, row_number() over (partition by host order by run_id) as nth from due
), fit as (
    select r.run_id
    from ranked r left join unnest($4::text[], $5::int[]) as b (host, places) on b.host = r.host
    where r.nth <= coalesce(b.places, $3::int)
)
update webhook_delivery w
set due_at = clock_timestamp() + make_interval(secs => $2::float8), attempts = w.attempts + 1
from fit f
where w.run_id = f.run_id
returning w.run_id, w.url, w.host, w.secret_env, w.attempts, w.alert;

-- name: settle_webhooks
-- How claimed deliveries went: delivered ($3 no error) and forgotten, due again in $4 seconds, or given up (no seconds).
-- One that was claimed again meanwhile is left to its new holder. Returns what was settled.
with settled as materialized (
    select * from unnest($1::uuid[], $2::int[], $3::text[], $4::float8[]) as s (run_id, attempts, error, retry_s)
), delivered as (
    delete from webhook_delivery w using settled s
    where w.run_id = s.run_id and w.attempts = s.attempts and s.error is null
    returning w.run_id
), failed as (
    update webhook_delivery w
    set last_error = s.error, due_at = coalesce(clock_timestamp() + make_interval(secs => s.retry_s), w.due_at),
        gave_up_at = case when s.retry_s is null then clock_timestamp() end
    from settled s
    where w.run_id = s.run_id and w.attempts = s.attempts and w.gave_up_at is null and s.error is not null
    returning w.run_id
)
select run_id from delivered union all select run_id from failed;

-- name: drop_old_webhooks
-- Forgets deliveries given up more than $1 days ago, at most $2.
with old as (
    select run_id from webhook_delivery where gave_up_at < now() - make_interval(days => $1) limit $2
)
delete from webhook_delivery w using old o where w.run_id = o.run_id returning 1;
