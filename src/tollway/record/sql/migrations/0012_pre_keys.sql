-- Concurrency keys: of the runs of one tenant with one key at most one, the holder, may be started or claimed.
--
--     accepted, key free   -> holder -> ended: the key passes to an heir in the same transaction, or its row goes
--     accepted, key taken  -> queue.gate = 'key' -> heir -> holder
--     accepted with delay  -> queue.gate = 'time' -> due: gate 'key' -> heir, at once if the key is free
--
-- The row of a key is there exactly while some run holds or wants it. Locks are taken in this order: rows of `queue`
-- (in the order of ids), rows of `concurrency` (in the order of their key), lines. Heirs are locked last and only if
-- nobody else holds them: who does is ending them, and passes the key once more.

create table concurrency (
    tenant text collate "C" not null,
    key    text collate "C" not null,
    holder uuid,
    primary key (tenant, key)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_cost_delay = 0);

-- The policy is told only where it is not to wait one's turn.
alter table queue
    add column concurrency_key text collate "C",
    add column concurrency_policy text collate "C" check (concurrency_policy in ('cancel_newest', 'cancel_running')),
    add constraint queue_key_known check (gate is distinct from 'key' or concurrency_key is not null) not valid;
alter table queue validate constraint queue_key_known;

-- Who waits for a key, in turn. These two say the gate so that what asks by them fits no other index: PostgreSQL
-- may take one that reads all who wait, where its statistics are from before they came.
create index queue_wanting on queue (tenant, concurrency_key, place, run_id) where coalesce(gate, '') = 'key';
-- who does not just wait: what is to be cancelled for it, or it for whom
create index queue_pressing on queue (tenant, concurrency_key, run_id)
    where case when gate = 'key' then concurrency_policy end is not null;

-- Passes keys whose holder has ended, or that have none, to their heirs: the newest run that said cancel_running, else
-- the first by place (the twin of domain.concurrency.heir). Returns the runs that hold a key now and did not before; the
-- caller enters their lines. Called once the ends are written: each statement in here has a snapshot of its own, so it
-- sees them, and all that others did until the keys were locked. (It asks by `limit 1` whether there is a run: an `exists`
-- may be planned as a hash of all that wait.)
create function pass_keys(tenants text[], keys text[])
returns table (run_id uuid, lane text, class text, tenant text, place bigint) language plpgsql as $$
#variable_conflict use_column
begin
    insert into concurrency as c (tenant, key)
    select distinct k.tenant collate "C", k.key collate "C" from unnest(tenants, keys) as k (tenant, key) order by 1, 2
    on conflict (tenant, key) do update set holder = c.holder;

    return query
    with free as materialized (
        select c.tenant, c.key, coalesce(
            (select q.run_id from queue q
             where q.tenant = c.tenant and q.concurrency_key = c.key and q.concurrency_policy = 'cancel_running'
                and case when q.gate = 'key' then q.concurrency_policy end is not null
             order by q.run_id desc limit 1 for update skip locked),
            (select q.run_id from queue q
             where q.tenant = c.tenant and q.concurrency_key = c.key and coalesce(q.gate, '') = 'key'
             order by q.place, q.run_id limit 1 for update skip locked)
        ) as heir
        from (select distinct k.tenant, k.key from unnest(tenants, keys) as k (tenant, key)) as k
        join concurrency c on c.tenant = k.tenant and c.key = k.key
        where (select h.run_id from queue h where h.run_id = c.holder limit 1) is null
    ), opened as (
        update queue q set gate = null from free f where q.run_id = f.heir
        returning q.run_id, q.lane, q.class, q.tenant, q.place
    ), held as (
        -- without an heir, but wanted: those that want it are being ended, and who ends them passes it once more
        update concurrency c set holder = f.heir
        from free f
        where c.tenant = f.tenant and c.key = f.key and (f.heir is not null or (
            select q.run_id from queue q where q.tenant = f.tenant and q.concurrency_key = f.key and coalesce(q.gate, '') = 'key' limit 1
        ) is not null)
    ), dropped as (
        delete from concurrency c using free f
        where c.tenant = f.tenant and c.key = f.key and f.heir is null and (
            select q.run_id from queue q where q.tenant = f.tenant and q.concurrency_key = f.key and coalesce(q.gate, '') = 'key' limit 1
        ) is null
    )
    select o.run_id, o.lane, o.class, o.tenant, o.place from opened o;
end
$$;
