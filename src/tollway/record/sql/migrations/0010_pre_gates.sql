-- Gates say when they open: a run keeps its place in its line while it waits behind one.
--
-- `queue.gate` is one of: `time` (a delay, a retry), `capacity:TIER` (no provider could serve it), `dependency:NAME` (its
-- breaker is open), all three with `opens_at`, when they open at the latest; and those that only an event opens.
alter table queue add column opens_at timestamptz;
update queue set opens_at = to_timestamp(place / 1e6) where gate = 'time';
create index queue_opening on queue (gate, opens_at) where gate is not null and opens_at is not null;

-- Processes of the version before stand by `place` alone. Whatever they put behind the gate of time opens by it.
create function opens_by_place() returns trigger language plpgsql as $$
begin
    new.opens_at := to_timestamp(new.place / 1e6);
    return new;
end $$;
create trigger queue_opens_by_place before insert or update of gate on queue
    for each row when (new.gate = 'time' and new.opens_at is null) execute function opens_by_place();
