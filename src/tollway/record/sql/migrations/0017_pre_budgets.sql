-- Budgets, and the money in them.
--
--     budget           what somebody set; its identity is what it covers, its period and its zone
--     budget_account   one period of it: what was spent by slices that are closed, and what live ones were granted
--     budget_slice     the part of an account that one process may spend on its own
--     budget_delta     what a process reserved and spent, written in the transaction of the intent or the outcome itself
--
-- Never is spent + granted above the hard limit, and nobody reserves beyond his slice, so no budget is overshot (P4). A slice
-- whose process died is closed at what its deltas say: what it had reserved counts as spent, as its calls end `unknown`.

create table budget (
    id                bigint generated always as identity primary key,
    tenant            text collate "C" not null references tenant (id),
    period            text not null check (period in ('day', 'week', 'month', 'total')),
    timezone          text not null default 'UTC',
    agent             text collate "C",
    lane              text collate "C",
    task_type         text collate "C",
    key_id            text collate "C",
    hard_nano         bigint check (hard_nano >= 0),
    soft_nano         bigint check (soft_nano >= 0),
    on_hard           text not null default 'park' check (on_hard in ('park', 'refuse')),
    ladder            jsonb not null default '[]',
    interactive_share double precision not null default 0 check (interactive_share between 0 and 1),
    forced            text[] not null default '{}',
    lifted            text[] not null default '{}',
    -- the settings' version from which on processes reserve for it: until all that live have read it, nobody is granted anything
    since_version     bigint not null,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    unique nulls not distinct (tenant, agent, lane, task_type, key_id, period, timezone)
);

create table budget_account (
    id           bigint generated always as identity primary key,
    budget       bigint not null references budget (id) on delete cascade,
    begins       timestamptz not null,
    ends         timestamptz,
    opened       boolean not null default false,
    spent_nano   bigint not null default 0,
    granted_nano bigint not null default 0,
    exhausted_at timestamptz,
    unique (budget, begins)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

create table budget_slice (
    account       bigint not null references budget_account (id) on delete cascade,
    process       bigint not null,
    granted_nano  bigint not null default 0,
    spent_nano    bigint not null default 0,
    reserved_nano bigint not null default 0,
    primary key (account, process)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
create index budget_slice_by_process on budget_slice (process);

create table budget_delta (
    process       bigint not null,
    accounts      bigint[] not null,
    spent_nano    bigint not null,
    reserved_nano bigint not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
create index budget_delta_by_process on budget_delta (process);

-- Calls that were under way when an account was opened: they count at their worst case until they have their entry.
create table budget_opening (
    account bigint not null references budget_account (id) on delete cascade,
    call_id uuid not null,
    nano    bigint not null,
    primary key (account, call_id)
);

-- How far a process has read budgets; null in processes that know of none.
alter table process add column budgets_seen bigint;
