-- Every entry of the ledger says whose money it was, so that reports need no other table, and which transaction wrote it
-- (`xid`), so that whoever adds entries up can tell those it has seen from those it has not: see `usage`.
--
-- `tier` is the tier of the route that served, `asked` what was asked for. An entry may also be `saved`: an answer given again
-- instead of made (`cached` says how: exact, flight), of 0 nano-dollars, with what the making would have cost. Of a call
-- that was made, `saved_prompt_nano` is what the vendor's prompt cache took off, `saved_shift_nano` what a lower tier did.

-- The number of the writing transaction, as a number: PostgreSQL keeps no BRIN index of xid8.
create function this_xid() returns bigint language sql volatile parallel safe as $$
    select pg_current_xact_id()::text::bigint
$$;

alter table ledger drop constraint ledger_kind_check;
alter table ledger
    add constraint ledger_kind_check check (kind in ('settle', 'unknown', 'release', 'adjust', 'saved')),
    add column agent text collate "C",
    add column lane text collate "C",
    add column task_type text collate "C",
    add column step text,
    add column asked text collate "C",
    add column cached text collate "C",
    add column saved_nano bigint,
    add column saved_prompt_nano bigint,
    add column saved_shift_nano bigint,
    add column xid bigint;
alter table ledger alter column xid set default this_xid();
create index ledger_by_xid on ledger using brin (xid) with (pages_per_range = 32, autosummarize = on);

-- What a reservation was for, so that a call whose outcome nobody saw has its entry in full.
alter table step
    add column tier text collate "C",
    add column asked text collate "C",
    add column model text,
    add column price_version text;

-- Which transaction ended a run.
alter table run add column ended_xid bigint;
create index run_by_end on run using brin (ended_xid) with (pages_per_range = 32, autosummarize = on);
alter table wire_call add column task_type text collate "C", add column asked text collate "C";
