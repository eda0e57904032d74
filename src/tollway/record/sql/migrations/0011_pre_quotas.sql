-- Tokens that tenants with token quotas used, as their calls were settled: in slices of a few seconds for the quota of a
-- minute, in UTC days for that of a day. Each process adds what it counted about once a second; the keeper sweeps.

create table quota_use (
    span   text collate "C" not null check (span in ('slice', 'day')),
    begins timestamptz not null,
    tenant text collate "C" not null,
    tokens bigint not null check (tokens >= 0),
    primary key (span, begins, tenant)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- A tenant's runs behind gates, to count what it has queued; the others are found by their lines.
create index queue_gated_by_tenant on queue (tenant) where gate is not null;
