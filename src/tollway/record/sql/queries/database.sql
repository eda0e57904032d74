-- name: database_now
-- The database's time, epoch seconds.
select extract(epoch from clock_timestamp())::float8
