-- Steps and task types are named by agents and clients, at any length; the sums of usage are found by them, and PostgreSQL keeps no
-- entry of an index beyond 2,704 bytes: one that was longer would end all counting. Longer ones are summed up by how they begin and
-- a digest. Of a task type all is kept that a budget may name (255 characters), which is looked up by it.

create function usage_name(name text, bytes_most integer) returns text language sql immutable parallel safe as $$
    select case when octet_length(name) <= bytes_most then name when name is null then '' else left(name, 20) || '…' || md5(name) end
$$;
create function usage_step(name text) returns text language sql immutable parallel safe as $$ select usage_name(name, 128) $$;
create function usage_task_type(name text) returns text language sql immutable parallel safe as $$ select usage_name(name, 1020) $$;
