-- name: table_sizes
-- Bytes on disk of tables by name, and of their indexes apart; those of partitioned tables lie in the partitions.
select c.relname::text as name, pg_table_size(c.oid) as bytes, pg_indexes_size(c.oid) as index_bytes
from pg_class c
where c.relname = any($1::text[]) and c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
order by c.relname
