-- Steps and task types are named by agents and clients, at any length; the sums of usage are found by them, and PostgreSQL keeps no
-- entry of an index beyond 2,704 bytes: one that was longer would end all counting. Longer ones are summed up by how they begin and
-- a digest. Of a task type all is kept that a budget may name (255 characters), which is looked up by it.

create function usage_name(name text, bytes_most integer) returns text language sql immutable parallel safe as $$
    select case when octet_length(name) <= bytes_most then name when name is null then '' else left(name, 20) || '…' || md5(name) end
$$;
create function usage_step(name text) returns text language sql immutable parallel safe as $$ select usage_name(name, 128) $$;
create function usage_task_type(name text) returns text language sql immutable parallel safe as $$ select usage_name(name, 1020) $$;

-- As in 0019, but rows are spread over all numbers that are past (also for whoever watches over spending), by the page they are in:
-- had they one number, one pass would have to count them all, which takes longer than a statement may beyond some two million runs.
create or replace function recount_usage() returns void language plpgsql as $$
declare
    today date := (now() at time zone 'UTC')::date;
    first_entry date;
    first_end date;
    first_month date;
    numbers bigint;
begin
    perform from usage_cursor for update;
    first_entry := least(today, (select (min(at) at time zone 'UTC')::date from ledger));
    first_end := least(today, (select (min(ended_at) at time zone 'UTC')::date from run));
    first_month := date_trunc('month', least(first_entry, first_end)::timestamp)::date;
    delete from usage_call where span = 'day' and begins >= first_entry or span = 'month' and begins >= first_month;
    delete from usage_run where span = 'day' and begins >= first_end or span = 'month' and begins >= first_month;
    delete from usage_spread where span = 'day' and begins >= first_end or span = 'month' and begins >= first_month;
    select greatest(1, least(pg_snapshot_xmin(pg_current_snapshot()), pg_snapshot_xmin(seen))::text::bigint - 3) into numbers from spend_cursor;
    update ledger set xid = 3 + (ctid::text::point)[0]::bigint % numbers;
    update run set ended_xid = 3 + (ctid::text::point)[0]::bigint % numbers where state is not null;
    update usage_cursor set snapshot = '3:3:'::pg_snapshot, folded = least(folded, first_month);
end
$$;
