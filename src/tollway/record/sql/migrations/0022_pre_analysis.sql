-- Partitions are analysed once they have grown by half, not by a tenth, and without the columns that nothing is ever looked up by:
-- one of today grows from nothing, so that the fifth of a second that each analysis took came every other second.

-- Has a partition analysed so.
create function spare_analysis(noun text, part regclass) returns void language plpgsql as $$
begin
    execute format('alter table %s set (autovacuum_analyze_scale_factor = 0.5, autovacuum_analyze_threshold = 10000)', part);
    if noun = 'run' then
        execute format('alter table %s alter input set statistics 0, alter output set statistics 0', part);
    elsif noun = 'step' then
        execute format('alter table %s alter result set statistics 0, alter error set statistics 0', part);
    elsif noun = 'event' then
        execute format('alter table %s alter data set statistics 0', part);
    end if;
end
$$;

create or replace function make_partitions(day date) returns void language plpgsql security definer
    set search_path = public, pg_temp set lock_timeout = '2s' as $$
declare
    noun text;
    low timestamptz;
    high timestamptz;
    part text;
begin
    perform pg_advisory_xact_lock(hashtext('tollway.make_partitions'));
    foreach noun in array array['run', 'step', 'event', 'ledger'] loop
        if noun = 'ledger' then
            low := date_trunc('month', day::timestamp) at time zone 'UTC';
            high := (date_trunc('month', day::timestamp) + interval '1 month') at time zone 'UTC';
            part := 'ledger_' || to_char(day, 'YYYYMM');
        else
            low := day::timestamp at time zone 'UTC';
            high := (day + 1)::timestamp at time zone 'UTC';
            part := noun || '_' || to_char(day, 'YYYYMMDD');
        end if;
        if to_regclass(part) is null then
            execute format(
                'create table %I partition of %I for values from (%L) to (%L) with (%sautovacuum_vacuum_insert_scale_factor = 0.5)',
                part, noun, uuid7_floor(low), uuid7_floor(high),
                case when noun in ('run', 'step') then 'fillfactor = 60, ' else '' end);
            perform spare_analysis(noun, part::regclass);
        end if;
    end loop;
end
$$;

select spare_analysis(inhparent::regclass::text, inhrelid::regclass)
from pg_inherits
where inhparent in ('run'::regclass, 'step'::regclass, 'event'::regclass, 'ledger'::regclass);
