-- name: accept_keyed_runs
-- accept_runs for runs of which some have a concurrency key. Of the new runs of a key the first by id takes it if nobody
-- holds it; the others wait behind the gate `key`, or, with the policy cancel_newest, are cancelled as they are written.
-- A delayed run takes its key when it is due. Keys are locked in order, and stay so until this transaction ends.
-- Returns the runs written now: their gate, and whether they have ended so.
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
), fresh as materialized (
    select * from incoming i
    where (idempotency_key is null or id in (select run_id from keyed))
        and not exists (select from run r where r.id = i.id and r.id = any ($1)) -- an earlier copy of this very write
), held as (
    insert into concurrency as c (tenant, key, holder)
    select distinct on (tenant collate "C", concurrency_key collate "C") tenant, concurrency_key, id
    from fresh
    where concurrency_key is not null and delay_s <= 0
    order by tenant collate "C", concurrency_key collate "C", id
    on conflict (tenant, key) do update set holder = coalesce(c.holder, excluded.holder)
    returning c.tenant, c.key, c.holder
), standing as materialized (
    select f.*, case when f.delay_s > 0 then 'time' when h.holder <> f.id then 'key' end as gate,
        f.delay_s <= 0 and f.concurrency_policy = 'cancel_newest' and h.holder <> f.id as refused,
        'its concurrency key is taken by run ' || h.holder as message
    from fresh f left join held h on h.tenant = f.tenant and h.key = f.concurrency_key
), stored as (
    insert into run (
        id, tenant, agent, version, lane, key_id, input, metadata, created_at, priority_s, delay_s, deadline_at,
        max_attempts, budget_nano, concurrency_key, concurrency_policy, webhook_url, webhook_secret_env, replay_of,
        predicted_start_at, state, error_code, error_message, attempt, fence, ended_at, steps, llm_calls, tool_calls,
        input_tokens, output_tokens, cached_tokens, cost_nano
    )
    select id, tenant, agent, version, lane, key_id, input, metadata::jsonb, created_at, priority_s, delay_s, deadline_at,
        max_attempts, budget_nano, concurrency_key, concurrency_policy, webhook_url, webhook_secret_env, replay_of,
        predicted_start_at, e.state, e.code, e.message, e.one, e.none, e.at, e.none, e.none, e.none, e.none, e.none, e.none, e.none
    from standing s left join lateral (
        select 'cancelled' as state, 'concurrency_key' as code, s.message, 1 as one, 0 as none, greatest(s.created_at, clock_timestamp()) as at
        where s.refused
    ) as e on true
    on conflict (id) do nothing
    returning id, ended_at
), queued as (
    insert into queue (run_id, lane, class, tenant, place, gate, opens_at, est_nano, expires_at, concurrency_key, concurrency_policy)
    select id, lane, agent, tenant, place, gate, case when delay_s > 0 then created_at + make_interval(secs => delay_s) end,
        est_nano, expires_at, concurrency_key, nullif(concurrency_policy, 'queue')
    from standing join stored using (id)
    where refused is not true
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select id, 1, 'accepted', created_at, 'key', key_id, data
    from standing join stored using (id)
    union all
    select id, 2, 'cancelled', ended_at, 'key', key_id,
        jsonb_build_object('code', 'concurrency_key', 'message', message)::text
    from standing join stored using (id)
    where refused
), hooked as (
    insert into webhook_delivery (run_id, url, secret_env, due_at)
    select id, webhook_url, webhook_secret_env, now() from standing join stored using (id)
    where refused and webhook_url is not null
    on conflict (run_id) do nothing
), entered as materialized (
    select enter_flows(array_agg(lane), array_agg(agent), array_agg(tenant), array_agg(place))
    from (
        select lane, agent, tenant, min(place) as place
        from standing
        where gate is null
        group by lane, agent, tenant
        order by lane, agent, tenant
    ) as line
    having count(*) > 0
)
select s.id, case when s.refused then null else s.gate end as gate, coalesce(s.refused, false) as ended
from standing s join stored using (id) left join entered e on true;

-- name: find_standing
-- Where runs stand that an accept finds written already: whether they have ended, else their gate.
select u.id, q.gate, r.state is not null as ended
from unnest($1::uuid[]) as u (id)
left join queue q on q.run_id = u.id
left join run r on r.id = u.id and r.id between $2 and $3;

-- name: list_rivals
-- Of the given keys: the holder, and the waiting runs that said more than to wait for their turn.
select c.tenant, c.key, q.run_id, q.concurrency_policy as policy, q.run_id = c.holder as holds, q.cancelled_by is not null as asked
from unnest($1::text[], $2::text[]) as k (tenant, key)
join concurrency c on c.tenant = k.tenant and c.key = k.key
cross join lateral (
    select h.run_id, h.concurrency_policy, h.cancelled_by from queue h where h.run_id = c.holder
    union all
    select w.run_id, w.concurrency_policy, w.cancelled_by from queue w
    where w.tenant = c.tenant and w.concurrency_key = c.key and case when w.gate = 'key' then w.concurrency_policy end is not null
) as q;

-- name: list_pressing_keys
-- Keys that such runs wait for, after ($1, $2) in their order.
select distinct tenant, concurrency_key as key
from queue
where case when gate = 'key' then concurrency_policy end is not null and (tenant, concurrency_key) > ($1, $2)
order by tenant, concurrency_key
limit $3;

-- name: look_through_keys
-- The next $3 keys after ($1, $2), and whether their holder is gone: an older version of a process, which knew no keys, ended it.
select c.tenant, c.key, not exists (select from queue q where q.run_id = c.holder) as stale
from (
    select * from concurrency where (tenant, key) > ($1::text, $2::text) order by tenant, key limit $3
) as c;

-- name: pass_keys
-- Passes keys on whose holder is gone; returns the lanes of the runs that hold one now.
with passed as materialized (
    select * from pass_keys($1::text[], $2::text[])
), entered as materialized (
    select enter_flows(array_agg(lane), array_agg(class), array_agg(tenant), array_agg(place))
    from (
        select lane, class, tenant, min(place) as place from passed group by lane, class, tenant order by lane, class, tenant
    ) as line
    having count(*) > 0
)
select distinct p.lane from passed p left join entered on true;
