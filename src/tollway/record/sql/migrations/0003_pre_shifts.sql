-- Shifts an operator has set: calls for one tier are served by another, for those who are named; null names everybody.
-- They are replaced all at once, under the lock of settings_version, which rises with them; `place` keeps their order.

create table tier_shift (
    place     integer primary key check (place >= 0),
    tenant    text collate "C" references tenant (id),
    agent     text collate "C" check (agent <> ''),
    task_type text collate "C" check (task_type <> ''),
    from_tier text collate "C" not null check (from_tier <> ''),
    to_tier   text collate "C" not null check (to_tier <> '')
);
