-- The spine: who submits (tenant, api_key), what runs (agent, run, step, event), where it waits (queue, flow),
-- what it cost (ledger), and which processes are alive (process).
--
-- Live state is in `queue`, which a run leaves when it ends; `run` is written twice, at accept and at end.
-- A run's way, as `queue.state` (0 queued, 1 running, 2 waiting, 3 parked) and then `run.state`:
--
--     0 -> 1 -> succeeded | failed | cancelled | expired | dead
--     ^    | \-> 2, 3 -> 0
--     \----/        (retry, lost worker, hand-back; every claim raises `fence`)
--
-- run, step, event and ledger are partitioned by UUIDv7 id, so retention drops partitions and look-ups prune.

create table tenant (
    id             text collate "C" primary key check (id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    name           text,
    weight         double precision not null default 1 check (weight > 0 and weight < 'infinity'),
    runs_per_s     double precision check (runs_per_s > 0),
    max_queued     bigint check (max_queued >= 0),
    max_running    bigint check (max_running > 0),
    tokens_per_min bigint check (tokens_per_min > 0),
    tokens_per_day bigint check (tokens_per_day > 0),
    paused         boolean not null default false,
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now()
);

insert into tenant (id, name) values ('default', 'Default');

create table api_key (
    id         text collate "C" primary key,
    tenant     text collate "C" not null references tenant (id),
    name       text not null,
    hash       bytea not null unique check (length(hash) = 32),
    scopes     text[] not null check (scopes <@ array['submit', 'read', 'cancel', 'approve', 'admin'] and cardinality(scopes) > 0),
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
create index api_key_by_tenant on api_key (tenant);

-- Raised by every change of a tenant or key; processes re-read and say in process.settings_seen how far they are.
create table settings_version (only_row boolean primary key default true check (only_row), version bigint not null default 1);
insert into settings_version default values;

create table agent (
    name          text collate "C" not null,
    version       text collate "C" not null,
    lane          text collate "C" not null,
    tier          text collate "C" not null,
    input_schema  jsonb not null,
    output_schema jsonb not null,
    timeout_s     double precision not null check (timeout_s > 0),
    max_attempts  integer not null check (max_attempts >= 1),
    requires      text[] not null default '{}',
    priority_s    double precision not null default 0,
    published_at  timestamptz not null default now(),
    primary key (name, version)
);

create sequence process_incarnation as bigint;

-- One beat a process. A worker's claims hang on its row: a beat unchanged for its TTL loses them.
create table process (
    id            bigint primary key default nextval('process_incarnation'),
    role          text not null check (role in ('api', 'worker', 'keeper')),
    host          text not null,
    pid           integer not null,
    beat          bigint not null default 0,
    beat_at       timestamptz not null default now(),
    lease_ttl_s   double precision not null,
    started_at    timestamptz not null default now(),
    stopping      boolean not null default false,
    settings_seen bigint not null default 0,
    facts         jsonb not null default '{}'
) with (fillfactor = 50);

-- Elections are lease rows: the holder renews, a row past `until` is free.
create table election (
    name   text primary key,
    holder bigint not null,
    until  timestamptz not null
);

create table run (
    id                 uuid not null,
    tenant             text collate "C" not null,
    agent              text collate "C" not null,
    version            text collate "C" not null,
    lane               text collate "C" not null,
    key_id             text collate "C" not null,
    input              bytea not null,
    metadata           jsonb,
    created_at         timestamptz not null,
    priority_s         double precision not null default 0,
    delay_s            double precision not null default 0 check (delay_s >= 0),
    deadline_at        timestamptz,
    max_attempts       integer not null check (max_attempts >= 1),
    budget_nano        bigint check (budget_nano >= 0),
    concurrency_key    text,
    concurrency_policy text check (concurrency_policy in ('queue', 'cancel_newest', 'cancel_running')),
    webhook_url        text,
    webhook_secret_env text,
    replay_of          uuid,
    predicted_start_at timestamptz,
    -- written at the end, all at once
    state              text check (state in ('succeeded', 'failed', 'cancelled', 'expired', 'dead')),
    output             bytea,
    error_code         text,
    error_message      text,
    attempt            integer,
    fence              bigint,
    started_at         timestamptz,
    ended_at           timestamptz,
    steps              integer,
    llm_calls          integer,
    tool_calls         integer,
    input_tokens       bigint,
    output_tokens      bigint,
    cached_tokens      bigint,
    cost_nano          bigint,
    degraded           text[],
    primary key (id),
    check ((state is null) = (ended_at is null)),
    check (output is null or state = 'succeeded'),
    check (error_code is null or state in ('failed', 'expired', 'dead', 'cancelled'))
) partition by range (id);
create index run_by_tenant on run (tenant, id);
create index run_by_metadata on run using gin (metadata jsonb_path_ops) where metadata is not null;

-- The lease of a run is (worker, fence); every write of a worker names both.
create table queue (
    run_id        uuid primary key,
    lane          text collate "C" not null,
    class         text collate "C" not null,
    tenant        text collate "C" not null,
    place         bigint not null,
    state         smallint not null default 0 check (state between 0 and 3),
    gate          text collate "C",
    fence         bigint not null default 0,
    worker        bigint,
    next_seq      integer not null default 2,
    errors        smallint not null default 0,
    lost          smallint not null default 0,
    est_nano      bigint not null default 0,
    expires_at    timestamptz,
    started_at    timestamptz,
    cancelled_by  text,
    steps         integer not null default 0,
    llm_calls     integer not null default 0,
    input_tokens  bigint not null default 0,
    output_tokens bigint not null default 0,
    cached_tokens bigint not null default 0,
    cost_nano     bigint not null default 0,
    check ((state = 1) = (worker is not null)),
    check (gate is null or state = 0)
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.2);
-- what a claim reads
create index queue_runnable on queue (lane, class, tenant, place) where state = 0 and gate is null;
-- what a closed gate holds back; `time` by the moment it opens
create index queue_gated on queue (gate, place) where gate is not null;
-- what a lost worker held
create index queue_held on queue (worker) where state = 1;
create index queue_expiring on queue (expires_at) where expires_at is not null;

-- One tenant's line within a lane and class: 0 open, 1 idle (nothing runnable), 2 shut (its gate is closed).
create table flow (
    lane   text collate "C" not null,
    class  text collate "C" not null,
    tenant text collate "C" not null,
    vtime  double precision not null default 0,
    state  smallint not null default 0 check (state between 0 and 2),
    head   bigint not null default 0,
    primary key (lane, class, tenant)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_cost_delay = 0);
create index flow_open on flow (lane, class, vtime) where state = 0;

-- How far service has come in a lane and class: a newcomer or a returning tenant enters here, with no stored credit.
create table flow_floor (
    lane  text collate "C" not null,
    class text collate "C" not null,
    vtime double precision not null,
    primary key (lane, class)
) with (fillfactor = 50);

create table idempotency (
    tenant     text collate "C" not null,
    key        text collate "C" not null,
    body_hash  bytea not null,
    run_id     uuid not null,
    created_at timestamptz not null default now(),
    primary key (tenant, key)
);
create index idempotency_by_age on idempotency using brin (created_at);

-- One journaled unit of a run. The intent row is the reservation of its money.
create table step (
    run_id        uuid not null,
    n             integer not null check (n >= 1),
    path          text collate "C" not null,
    kind          text collate "C" not null check (kind in ('llm', 'task', 'tool', 'search', 'call', 'sleep', 'approval', 'event')),
    name          text not null,
    state         text not null default 'intent' check (state in ('intent', 'done', 'failed', 'unknown')),
    attempt       integer not null,
    fence         bigint not null,
    call_id       uuid not null,
    reserved_nano bigint not null default 0 check (reserved_nano >= 0),
    started_at    timestamptz not null,
    ended_at      timestamptz,
    result        bytea,
    error         text,
    route         text,
    cached        boolean not null default false,
    calls         integer not null default 0,
    input_tokens  bigint not null default 0,
    output_tokens bigint not null default 0,
    cached_tokens bigint not null default 0,
    cost_nano     bigint not null default 0,
    primary key (run_id, n),
    check ((state = 'intent') = (ended_at is null))
) partition by range (run_id);

-- Append-only facts; a run's state is the fold of its events.
create table event (
    run_id     uuid not null,
    seq        integer not null check (seq >= 1),
    type       text collate "C" not null,
    at         timestamptz not null,
    actor_kind text collate "C" not null,
    actor_id   text not null,
    data       text,
    primary key (run_id, seq)
) partition by range (run_id);

-- Append-only entries of money. A call's `reserve` is the intent row of its step.
create table ledger (
    call_id       uuid not null,
    kind          text collate "C" not null check (kind in ('settle', 'unknown', 'release', 'adjust')),
    run_id        uuid not null,
    n             integer not null,
    tenant        text collate "C" not null,
    route         text,
    model         text,
    price_version text,
    nano          bigint not null,
    input_tokens  bigint not null default 0,
    output_tokens bigint not null default 0,
    cached_tokens bigint not null default 0,
    estimated     boolean not null default false,
    at            timestamptz not null,
    primary key (call_id, kind)
) partition by range (call_id);
create index ledger_by_run on ledger (run_id);

create table dead_letter (
    run_id      uuid primary key,
    tenant      text collate "C" not null,
    agent       text collate "C" not null,
    lane        text collate "C" not null,
    fingerprint text collate "C" not null,
    code        text not null,
    message     text not null,
    cost_nano   bigint not null,
    died_at     timestamptz not null,
    replayed_as uuid
);
create index dead_letter_by_kind on dead_letter (tenant, fingerprint, run_id);

create table webhook_delivery (
    run_id      uuid primary key,
    url         text not null,
    secret_env  text,
    attempts    integer not null default 0,
    due_at      timestamptz not null,
    last_error  text,
    created_at  timestamptz not null default now()
);
create index webhook_delivery_due on webhook_delivery (due_at);

-- Opens the lines of runs that are about to become runnable, and keeps them open until this transaction ends.
-- The key-share lock lets claims go on (they take no-key-update) but keeps the idle marker (for update) out, so that no
-- run is stranded in a line marked empty. `places` is the least place entering each line; an old place lowers the head.
-- Lanes, classes and tenants are parallel, distinct and in order, so that two callers cannot deadlock.
create function enter_flows(lanes text[], classes text[], tenants text[], places bigint[]) returns void language plpgsql as $$
declare
    known integer;
    -- a claim moves `head` no nearer to now than 60 s: what enters older than 30 s must hold the line itself
    old bigint := (extract(epoch from clock_timestamp()) * 1000000)::bigint - 30000000;
begin
    with entering as (
        select * from unnest(lanes, classes, tenants, places) as e (lane, class, tenant, place)
    ), locked as materialized (
        select f.lane, f.class, f.tenant, f.state, f.head, e.place
        from entering e join flow f on f.lane = e.lane and f.class = e.class and f.tenant = e.tenant
        for key share of f
    ), reopened as (
        update flow f
        set state = case f.state when 1 then 0 else f.state end,
            head = least(f.head, l.place),
            vtime = case l.state
                when 1 then greatest(f.vtime, coalesce((select b.vtime from flow_floor b where b.lane = f.lane and b.class = f.class), 0))
                else f.vtime end
        from locked l
        where (l.state = 1 or l.head > l.place or l.place < old)
            and f.lane = l.lane and f.class = l.class and f.tenant = l.tenant
    )
    select count(*) into known from locked;
    if known < cardinality(lanes) then
        insert into flow as f (lane, class, tenant, vtime, state, head)
        select e.lane, e.class, e.tenant,
            coalesce((select b.vtime from flow_floor b where b.lane = e.lane and b.class = e.class), 0),
            -- the lock keeps a pause out, which would not see this line yet, until it does
            case when (select t.paused from tenant t where t.id = e.tenant for share) then 2 else 0 end,
            0
        from unnest(lanes, classes, tenants) as e (lane, class, tenant)
        where not exists (select from flow x where x.lane = e.lane and x.class = e.class and x.tenant = e.tenant)
        on conflict (lane, class, tenant) do update
            set state = case f.state when 1 then 0 else f.state end, head = 0;
    end if;
end
$$;

-- The least UUIDv7 of a moment.
create function uuid7_floor(at timestamptz) returns uuid language sql immutable parallel safe as $$
    select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Makes the partitions of the given UTC day and month; a second call is nothing. The owner's right, lent to the keeper.
-- Everybody queues behind the lock on the whole table that this waits for, so it gives up soon: the keeper tries again.
create function make_partitions(day date) returns void language plpgsql security definer
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
            execute format('create table %I partition of %I for values from (%L) to (%L)%s', part, noun,
                uuid7_floor(low), uuid7_floor(high),
                case noun
                    when 'run' then ' with (fillfactor = 60, autovacuum_vacuum_insert_scale_factor = 0.5)'
                    when 'step' then ' with (fillfactor = 60, autovacuum_vacuum_insert_scale_factor = 0.5)'
                    else ' with (autovacuum_vacuum_insert_scale_factor = 0.5)'
                end);
        end if;
    end loop;
end
$$;

-- Drops the partition of one day (or, for the ledger, one month) unless a live run began in it. True when it is gone.
create function drop_partition(noun text, day date) returns boolean language plpgsql security definer
    set search_path = public, pg_temp set lock_timeout = '2s' as $$
declare
    low timestamptz := case noun when 'ledger' then date_trunc('month', day::timestamp) at time zone 'UTC'
                                 else day::timestamp at time zone 'UTC' end;
    high timestamptz := case noun when 'ledger' then (date_trunc('month', day::timestamp) + interval '1 month') at time zone 'UTC'
                                  else (day + 1)::timestamp at time zone 'UTC' end;
    part text := noun || '_' || to_char(day, case noun when 'ledger' then 'YYYYMM' else 'YYYYMMDD' end);
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
    execute format('alter table %I detach partition %I', noun, part);
    execute format('drop table %I', part);
    return true;
end
$$;

select make_partitions(((now() at time zone 'UTC')::date + d)) from generate_series(-1, 14) d;
