-- name: probe_server
-- What a server is before Tollway uses it: no table is read, so it works on any Postgres and behind any pooler.
select current_setting('server_version_num')::int as version_num,
       current_setting('server_version') as version,
       pg_backend_pid() as backend_pid,
       current_setting('fsync') = 'on' as fsync,
       current_setting('synchronous_commit') <> 'off' as synchronous_commit,
       extract(epoch from clock_timestamp())::float8 as now,
       pg_is_in_recovery() as standby,
       exists (select from pg_extension where extname = 'vector') as vector_installed,
       exists (select from pg_available_extensions where name = 'vector') as vector_available,
       to_regclass('schema_version') is not null as has_schema

-- name: probe_schema
-- How far the record's schema is; asked only where the table exists.
select max(version)::int from schema_version
