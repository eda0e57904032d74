-- name: list_live_keys
-- Every key that opens a door, for the snapshot in memory.
select id, tenant, name, hash, scopes from api_key where revoked_at is null

-- name: list_keys
-- The keys of a tenant, revoked ones included, newest first.
select id, tenant, name, scopes, created_at, revoked_at
from api_key
where tenant = $1 and ($2::text is null or id < $2)
order by id desc
limit $3

-- name: create_key
-- A new key of an existing tenant; no row when there is no such tenant.
with made as (
    insert into api_key (id, tenant, name, hash, scopes)
    select $1, t.id, $3, $4, $5::text[] from tenant t where t.id = $2
    returning id, tenant, name, scopes, created_at
), bumped as (
    update settings_version set version = version + 1 where exists (select from made) returning version
)
select made.*, bumped.version from made, bumped

-- name: ensure_admin_key
-- The first admin key, by its hash; the version rises only when something changed. A revoked one is opened again.
with put as (
    insert into api_key (id, tenant, name, hash, scopes)
    values ('admin', 'default', 'first admin key', $1, array['admin'])
    on conflict (id) do update set hash = excluded.hash, revoked_at = null
        where api_key.hash <> excluded.hash or api_key.revoked_at is not null
    returning id
)
update settings_version set version = version + 1 where exists (select from put)

-- name: lock_settings
-- One change of keys at a time, so that the last admin key cannot be revoked twice over.
select version from settings_version for update

-- name: count_other_admin_keys
-- Live admin keys beside one.
select count(*) from api_key where revoked_at is null and 'admin' = any(scopes) and id <> $1

-- name: revoke_key
-- Ends a key; no row when there is no such live key of the tenant.
with ended as (
    update api_key set revoked_at = now() where id = $1 and tenant = $2 and revoked_at is null returning id
)
update settings_version set version = version + 1 where exists (select from ended) returning version
