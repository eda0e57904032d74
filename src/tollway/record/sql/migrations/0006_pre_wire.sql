-- Calls made over the wire without a run. Their money is reserved in `wire_call` before the call and stands in `ledger`
-- after it: the statement that writes the entry takes the reservation away, so the table holds what is under way.
-- A call whose process died is `unknown` at its worst case; the keeper finds it by `process`.

create table wire_call (
    call_id       uuid primary key,
    process       bigint not null,
    tenant        text collate "C" not null,
    key_id        text collate "C" not null,
    lane          text collate "C" not null,
    tier          text collate "C" not null,
    route         text not null,
    provider      text not null,
    model         text not null,
    price_version text not null,
    reserved_nano bigint not null check (reserved_nano >= 0),
    at            timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
create index wire_call_by_process on wire_call (process);

-- An entry is of a run's step, or of a key.
alter table ledger alter column run_id drop not null, alter column n drop not null,
    add column key_id text collate "C", add column tier text collate "C";
