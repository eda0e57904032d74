-- name: accept_runs
-- Writes accepted runs: the run, its place in the queue, its first event, its idempotency key; all or nothing a run.
-- Safe to repeat: a run whose id or idempotency key is known already is left alone. Returns the ids written now.
with incoming as materialized (
    select * from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[],
        $9::timestamptz[], $10::float8[], $11::float8[], $12::timestamptz[], $13::timestamptz[], $14::int[],
        $15::bigint[], $16::text[], $17::text[], $18::text[], $19::text[], $20::uuid[], $21::timestamptz[],
        $22::bigint[], $23::bigint[], $24::text[], $25::bytea[], $26::text[]
    ) as i (
        id, tenant, key_id, agent, version, lane, input, metadata,
        created_at, priority_s, delay_s, deadline_at, expires_at, max_attempts,
        budget_nano, concurrency_key, concurrency_policy, webhook_url, webhook_secret_env, replay_of, predicted_start_at,
        place, est_nano, idempotency_key, body_hash, data
    )
), keyed as (
    insert into idempotency (tenant, key, body_hash, run_id)
    select tenant, idempotency_key, body_hash, id from incoming where idempotency_key is not null
    on conflict (tenant, key) do nothing
    returning run_id
), stored as (
    insert into run (
        id, tenant, agent, version, lane, key_id, input, metadata, created_at, priority_s, delay_s, deadline_at,
        max_attempts, budget_nano, concurrency_key, concurrency_policy, webhook_url, webhook_secret_env, replay_of,
        predicted_start_at
    )
    select id, tenant, agent, version, lane, key_id, input, metadata::jsonb, created_at, priority_s, delay_s, deadline_at,
        max_attempts, budget_nano, concurrency_key, concurrency_policy, webhook_url, webhook_secret_env, replay_of,
        predicted_start_at
    from incoming
    where idempotency_key is null or id in (select run_id from keyed)
    on conflict (id) do nothing
    returning id
), queued as (
    insert into queue (run_id, lane, class, tenant, place, gate, opens_at, est_nano, expires_at)
    select id, lane, agent, tenant, place, case when delay_s > 0 then 'time' end,
        case when delay_s > 0 then created_at + make_interval(secs => delay_s) end, est_nano, expires_at
    from incoming join stored using (id)
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select id, 1, 'accepted', created_at, 'key', key_id, data
    from incoming join stored using (id)
), entered as materialized (
    select enter_flows(array_agg(lane), array_agg(agent), array_agg(tenant), array_agg(place))
    from (
        select lane, agent, tenant, min(place) as place
        from incoming
        where delay_s <= 0
        group by lane, agent, tenant
        order by lane, agent, tenant
    ) as line
    having count(*) > 0
)
select s.id from stored s left join entered e on true;

-- name: find_idempotent
-- What the given (tenant, key) pairs were used for.
select i.tenant, i.key, i.body_hash, i.run_id
from idempotency i join unnest($1::text[], $2::text[]) as k (tenant, key) on i.tenant = k.tenant and i.key = k.key;
