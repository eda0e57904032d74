-- Alerts: what an operator or a tenant is told of, once, and until it is over.
--
--     told once a `key`  ->  open (over_at is null)  ->  over  ->  forgotten with the events of its time
--
-- A webhook's delivery is of a run or of an alert: `alert` names it, and `run_id`, the key of deliveries, is then an id
-- of the delivery's own, as an alert may have two receivers, the operator's and the tenant's.

create table alert (
    id      uuid primary key,
    tenant  text collate "C",
    kind    text collate "C" not null,
    subject text not null,
    key     text collate "C" not null,
    data    jsonb not null,
    at      timestamptz not null default clock_timestamp(),
    over_at timestamptz
);
create unique index alert_open on alert (key) where over_at is null;
create index alert_by_tenant on alert (tenant, id);

alter table webhook_delivery add column alert uuid references alert (id) on delete cascade;
create index webhook_delivery_by_alert on webhook_delivery (alert) where alert is not null;

alter table tenant add column alert_url text, add column alert_secret_env text;
alter table tenant add constraint tenant_alert_secret check (alert_secret_env is null or alert_url is not null);

-- What each tenant spent lately, by the minute, and by the whole hour for two weeks. Entries of the ledger are added up
-- as they become visible: `seen` is PostgreSQL's snapshot up to which they were, so that a transaction that began early
-- and commits late is counted too, and none is counted twice. From now on; what stands in the ledger already is past.
create table spend_cursor (
    only_one boolean primary key default true check (only_one),
    seen     pg_snapshot not null
);
insert into spend_cursor (seen) values (pg_current_snapshot());

create table spend_minute (
    minute timestamptz not null,
    tenant text collate "C" not null,
    nano   bigint not null,
    primary key (minute, tenant)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

create table spend_hour (
    tenant text collate "C" not null,
    hour   timestamptz not null,
    nano   bigint not null,
    primary key (tenant, hour)
);

-- How fast the money of a budget's period goes: see `spend.burn`. It refers to its account without a lock on it, which
-- is a hot row; what is left of accounts that are gone is swept.
create table budget_burn (
    account    bigint primary key,
    since      timestamptz not null,
    since_nano bigint not null,
    at         timestamptz not null,
    spent_nano bigint not null,
    faded      double precision not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);
