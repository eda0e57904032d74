-- name: lock_schema
-- One migrator at a time.
select pg_try_advisory_lock(7106011001);

-- name: unlock_schema
-- The next migrator may go.
select pg_advisory_unlock(7106011001);

-- name: make_schema_version
-- What was applied, and when.
create table if not exists schema_version (
    version    integer primary key,
    phase      text not null check (phase in ('pre', 'post')),
    name       text not null,
    applied_at timestamptz not null default now()
);

-- name: schema_exists
-- Whether anything was ever applied.
select to_regclass('schema_version') is not null;

-- name: read_schema_version
-- How far the schema is.
select coalesce(max(version), 0) from schema_version;

-- name: list_schema_versions
-- All that was applied.
select version from schema_version;

-- name: add_schema_version
-- This migration is done.
insert into schema_version (version, phase, name) values ($1, $2, $3);

-- name: grant_app
-- What the processes' own role may do, where the deployment has that role: read and write rows, no more.
do $$
begin
    if exists (select from pg_roles where rolname = 'tollway_app') then
        grant usage on schema public to tollway_app;
        grant select, insert, update, delete on all tables in schema public to tollway_app;
        grant usage, select on all sequences in schema public to tollway_app;
        grant execute on all functions in schema public to tollway_app;
        alter default privileges in schema public grant select, insert, update, delete on tables to tollway_app;
        begin
            alter role tollway_app set statement_timeout = '30s';
            alter role tollway_app set lock_timeout = '10s';
            alter role tollway_app set idle_in_transaction_session_timeout = '60s';
            alter role tollway_app set timezone = 'UTC';
        exception when insufficient_privilege then
            raise notice 'cannot set the time-outs of role tollway_app; ask its administrator';
        end;
    end if;
end
$$;
