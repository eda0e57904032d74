-- Usage: what was called, what it cost and what was saved, summed up as it happens, so that reports read no ledger and no run.
--
--     usage_cursor   which transactions are counted: a snapshot, not a number, so that neither a gap in a sequence nor a
--                    transaction that commits late can be missed or counted twice
--     usage_call     sums of `ledger` by owner, route and step
--     usage_run      ended runs by owner, and by what they called: `part` says which of tier, route and step a row is about,
--                    so that a run with many calls counts once in each
--     usage_spread   how many runs made so many calls, and cost so much, by bucket of `usage_bucket`
--
-- A row is of a UTC day, or of a month (`begins` is its first day): a month holds its days before `usage_cursor.folded`, the
-- others stand as days alone. '' is what an entry does not have, and what a row does not tell apart: `detail` says which rows
-- tell all owners apart, which only tenants (and tiers), and which all but tenants and keys, so that most reports read few rows.
-- In parts but 'run' the states are summed up as ''; in usage_spread the tenant '' is all of them.

create table usage_cursor (
    only_row boolean primary key default true check (only_row),
    snapshot pg_snapshot not null,
    folded   date not null,
    at       timestamptz not null default now()
) with (fillfactor = 50);

create table usage_call (
    detail            text collate "C" not null check (detail in ('owner', 'tenant', 'whole')),
    span              text collate "C" not null check (span in ('day', 'month')),
    begins            date not null,
    tenant            text collate "C" not null,
    agent             text collate "C" not null,
    lane              text collate "C" not null,
    tier              text collate "C" not null,
    route             text collate "C" not null,
    step              text collate "C" not null,
    key_id            text collate "C" not null,
    task_type         text collate "C" not null,
    calls             bigint not null,
    hits              bigint not null,
    input_tokens      bigint not null,
    output_tokens     bigint not null,
    cached_tokens     bigint not null,
    cost_nano         bigint not null,
    unknown_nano      bigint not null,
    saved_cache_nano  bigint not null,
    saved_flight_nano bigint not null,
    saved_prompt_nano bigint not null,
    saved_shift_nano  bigint not null,
    primary key (detail, span, begins, tenant, agent, lane, tier, route, step, key_id, task_type)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000);

create table usage_run (
    detail    text collate "C" not null check (detail in ('owner', 'tenant', 'whole')),
    part      text collate "C" not null check (part in ('run', 'tier', 'route', 'step', 'tier step', 'route step')),
    span      text collate "C" not null check (span in ('day', 'month')),
    begins    date not null,
    tenant    text collate "C" not null,
    agent     text collate "C" not null,
    lane      text collate "C" not null,
    key_id    text collate "C" not null,
    task_type text collate "C" not null,
    state     text collate "C" not null,
    tier      text collate "C" not null,
    route     text collate "C" not null,
    step      text collate "C" not null,
    runs      bigint not null,
    calls     bigint not null,
    cost_nano bigint not null,
    primary key (detail, part, span, begins, tenant, agent, lane, key_id, task_type, state, tier, route, step)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000);

create table usage_spread (
    span    text collate "C" not null check (span in ('day', 'month')),
    begins  date not null,
    tenant  text collate "C" not null,
    agent   text collate "C" not null,
    measure text collate "C" not null check (measure in ('calls', 'cost')),
    bucket  smallint not null check (bucket >= 0),
    runs    bigint not null,
    primary key (span, begins, tenant, agent, measure, bucket)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000);

-- The bucket of an amount, the twin of domain.usage.bucket_of: amounts below 16 have one each, above them every doubling has 16.
create function usage_bucket(amount bigint) returns smallint language sql immutable parallel safe as $$
    select case
        when amount < 16 then greatest(amount, 0)
        else 16 * (61 - position(B'1' in amount::bit(64))) + ((amount >> (60 - position(B'1' in amount::bit(64)))) & 15)
    end::smallint
$$;

-- What was written before anybody counted belongs to the first transaction of all.
update ledger set xid = 3 where xid is null;
update run set ended_xid = 3 where state is not null and ended_xid is null;
insert into usage_cursor (snapshot, folded)
select '3:3:'::pg_snapshot, least(
    (now() at time zone 'UTC')::date,
    (select (min(at) at time zone 'UTC')::date from ledger),
    (select (min(ended_at) at time zone 'UTC')::date from run)
);

-- Has all that the ledger and the runs still hold counted anew, by the coming passes. For an operator whose database was restored
-- from a dump: its rows carry numbers of another cluster's transactions. Days of which nothing is left keep their sums.
create function recount_usage() returns void language plpgsql as $$
declare
    today date := (now() at time zone 'UTC')::date;
    first_entry date;
    first_end date;
    first_month date;
begin
    perform from usage_cursor for update;
    first_entry := least(today, (select (min(at) at time zone 'UTC')::date from ledger));
    first_end := least(today, (select (min(ended_at) at time zone 'UTC')::date from run));
    first_month := date_trunc('month', least(first_entry, first_end)::timestamp)::date;
    delete from usage_call where span = 'day' and begins >= first_entry or span = 'month' and begins >= first_month;
    delete from usage_run where span = 'day' and begins >= first_end or span = 'month' and begins >= first_month;
    delete from usage_spread where span = 'day' and begins >= first_end or span = 'month' and begins >= first_month;
    update ledger set xid = 3;
    update run set ended_xid = 3 where state is not null;
    update usage_cursor set snapshot = '3:3:'::pg_snapshot, folded = least(folded, first_month);
end
$$;

-- Tells the indexes of transaction numbers what is in the newest pages: until then every look reads those pages. The owner's
-- right, lent to the keeper; it waits for nobody.
create function summarize_xids() returns void language plpgsql security definer
    set search_path = public, pg_temp set lock_timeout = '100ms' as $$
declare
    part regclass;
begin
    for part in
        select newest.index
        from (
            select i.inhrelid::regclass as index, row_number() over (partition by i.inhparent order by x.indrelid desc) as age
            from pg_inherits i
            join pg_index x on x.indexrelid = i.inhrelid
            where i.inhparent in ('ledger_by_xid'::regclass, 'run_by_end'::regclass) and pg_relation_size(x.indrelid) > 0
        ) as newest
        where newest.age <= 2
    loop
        begin
            perform brin_summarize_new_values(part);
        exception when lock_not_available then
            null;
        end;
    end loop;
end
$$;

-- As in 0001, but a partition stays until all in it is counted.
create or replace function drop_partition(noun text, day date) returns boolean language plpgsql security definer
    set search_path = public, pg_temp set lock_timeout = '2s' as $$
declare
    low timestamptz := case noun when 'ledger' then date_trunc('month', day::timestamp) at time zone 'UTC'
                                 else day::timestamp at time zone 'UTC' end;
    high timestamptz := case noun when 'ledger' then (date_trunc('month', day::timestamp) + interval '1 month') at time zone 'UTC'
                                  else (day + 1)::timestamp at time zone 'UTC' end;
    part text := noun || '_' || to_char(day, case noun when 'ledger' then 'YYYYMM' else 'YYYYMMDD' end);
    uncounted boolean;
begin
    if noun not in ('run', 'step', 'event', 'ledger') then
        raise exception 'not a partitioned noun: %', noun;
    end if;
    if to_regclass(part) is null then
        return true;
    end if;
    -- a call's money may be paid long after its run began
    if exists (select from queue where run_id < uuid7_floor(high) and (noun = 'ledger' or run_id >= uuid7_floor(low))) then
        return false;
    end if;
    if noun in ('run', 'ledger') then
        execute format(
            'select count(*) > 0 from %1$I p, usage_cursor c where p.%2$I >= pg_snapshot_xmin(c.snapshot)::text::bigint '
            'and not pg_visible_in_snapshot(p.%2$I::text::xid8, c.snapshot)', part, case noun when 'run' then 'ended_xid' else 'xid' end
        ) into uncounted;
        if uncounted then
            return false;
        end if;
    end if;
    execute format('alter table %I detach partition %I', noun, part);
    execute format('drop table %I', part);
    return true;
end
$$;
