-- Capacity leases: how the processes share the limits of each route. One row a route says what is saved up and how hard
-- all brake, one row a process and route what it may spend, until when, and what it wants.
--
-- Both are gone after a crash of the server, which is why they need no write-ahead log: `capacity_book`, which stays,
-- tells a route whose leases were lost (and may still be spent for a moment) from one never seen before.

create table capacity_book (
    route      text collate "C" primary key,
    day        integer not null default 0,
    day_tokens double precision not null default 0 check (day_tokens >= 0)
);

create unlogged table capacity_route (
    route text collate "C" primary key,
    fresh boolean not null,
    state jsonb
) with (fillfactor = 20, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

create unlogged table capacity_lease (
    route   text collate "C" not null,
    process bigint not null,
    lease   jsonb not null,
    primary key (route, process)
) with (fillfactor = 20, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);
