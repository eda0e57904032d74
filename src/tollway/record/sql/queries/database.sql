-- name: database_now
-- The database's time, epoch seconds.
select extract(epoch from clock_timestamp())::float8

-- name: backend_pid
-- The pid of the backend that really serves this connection.
select pg_backend_pid();
