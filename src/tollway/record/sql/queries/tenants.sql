-- name: list_tenants
-- Every tenant, for the snapshot in memory and for the list.
select id, name, weight, runs_per_s, max_queued, max_running, tokens_per_min, tokens_per_day, paused, alert_url, alert_secret_env,
    created_at, updated_at
from tenant
order by id

-- name: put_tenant
-- Makes or changes a tenant: $2 holds the given fields, those absent stay as they are, null lifts a limit.
with given as (
    select j,
           coalesce((j ->> 'weight')::float8, 1) as weight,
           (j ->> 'runs_per_s')::float8 as runs_per_s,
           (j ->> 'max_queued')::bigint as max_queued,
           (j ->> 'max_running')::bigint as max_running,
           (j ->> 'tokens_per_min')::bigint as tokens_per_min,
           (j ->> 'tokens_per_day')::bigint as tokens_per_day,
           coalesce((j ->> 'paused')::boolean, false) as paused,
           j #>> '{alert_webhook,url}' as alert_url,
           j #>> '{alert_webhook,secret_env}' as alert_secret_env
    from (select $2::jsonb) as body (j)
), put as (
    insert into tenant as t (id, name, weight, runs_per_s, max_queued, max_running, tokens_per_min, tokens_per_day, paused, alert_url, alert_secret_env)
    select $1, j ->> 'name', weight, runs_per_s, max_queued, max_running, tokens_per_min, tokens_per_day, paused, alert_url, alert_secret_env
    from given
    on conflict (id) do update set
        name = case when $2::jsonb ? 'name' then excluded.name else t.name end,
        weight = case when $2::jsonb ? 'weight' then excluded.weight else t.weight end,
        runs_per_s = case when $2::jsonb ? 'runs_per_s' then excluded.runs_per_s else t.runs_per_s end,
        max_queued = case when $2::jsonb ? 'max_queued' then excluded.max_queued else t.max_queued end,
        max_running = case when $2::jsonb ? 'max_running' then excluded.max_running else t.max_running end,
        tokens_per_min = case when $2::jsonb ? 'tokens_per_min' then excluded.tokens_per_min else t.tokens_per_min end,
        tokens_per_day = case when $2::jsonb ? 'tokens_per_day' then excluded.tokens_per_day else t.tokens_per_day end,
        paused = case when $2::jsonb ? 'paused' then excluded.paused else t.paused end,
        alert_url = case when $2::jsonb ? 'alert_webhook' then excluded.alert_url else t.alert_url end,
        alert_secret_env = case when $2::jsonb ? 'alert_webhook' then excluded.alert_secret_env else t.alert_secret_env end,
        updated_at = now()
    returning t.*, (t.xmax = 0) as created
), bumped as (
    update settings_version set version = version + 1 returning version
)
select put.id, name, weight, runs_per_s, max_queued, max_running, tokens_per_min, tokens_per_day, paused,
       alert_url, alert_secret_env, created_at, updated_at, created, bumped.version
from put, bumped

-- name: lock_broke
-- Keeps everybody else from turning the lines of a tenant by its budgets, as turn_broke does: who holds this goes for the lines.
select pg_advisory_xact_lock(hashtext('tollway.broke'), hashtext($1))

-- name: turn_flows
-- Shuts the flows of a paused tenant; reopens those of one that is not, the full ones too, whose cap may be another now, but not
-- those whose money is spent (turn_broke follows). They
-- enter at the floor, with no credit stored up, and a claim finds out which are full still. Locked in order.
-- A statement of its own after put_tenant, so that it sees the lines of accepts that held the tenant's row until then.
-- Returns the lanes reopened.
with turning as materialized (
    select f.lane, f.class, f.tenant, t.paused
    from flow f join tenant t on t.id = f.tenant
    where f.tenant = $1 and case when t.paused then f.state <> 2 else f.state in (2, 3) end
    order by f.lane, f.class
    for no key update of f
), turned as (
    update flow f
    set state = case when s.paused then 2 else 0 end,
        vtime = case when s.paused then f.vtime else greatest(f.vtime, b.vtime) end,
        entered = case when s.paused then f.entered else coalesce(b.vtime, f.entered) end
    from turning s left join flow_floor b on b.lane = s.lane and b.class = s.class
    where f.lane = s.lane and f.class = s.class and f.tenant = s.tenant
    returning f.lane, f.state
)
select distinct lane from turned where state = 0
