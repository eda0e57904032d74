-- name: read_rungs
-- What an operator forced and lifted of a budget's ladder; nothing where the tenant has no such budget.
select id, tenant, forced, lifted from budget where tenant = $1 and id = $2

-- name: put_rungs
-- Replaces what is forced ($3) and lifted ($4); the settings' version rises with it. Nothing where there is no such budget.
with put as (
    update budget set forced = $3::text[], lifted = $4::text[], updated_at = now() where tenant = $1 and id = $2
    returning id, tenant, forced, lifted
), bumped as (
    update settings_version set version = version + 1 where exists (select from put) returning version
)
select put.id, put.tenant, put.forced, put.lifted, bumped.version from put, bumped
