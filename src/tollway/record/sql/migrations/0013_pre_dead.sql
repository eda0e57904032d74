-- A dead letter leaves the list for good: replayed (0001), or discarded by somebody. Its row stays as long as its run.
-- An open letter is a row that nobody has changed since it was written: a count's snapshot tells it from later ones by xmin.
alter table dead_letter
    add column discarded_at timestamptz,
    add column discarded_by text,
    add constraint dead_letter_discarded_by_somebody check ((discarded_at is null) = (discarded_by is null));
drop index dead_letter_by_kind;
create index dead_letter_open on dead_letter (fingerprint, run_id) where replayed_as is null and discarded_at is null;

-- Whether a row's writer had committed in a view (a pg_snapshot of this cluster, hours old at most: a row's 32-bit number is
-- taken for the nearest to the view).
create function was_seen(writer xid, view pg_snapshot) returns boolean language sql immutable parallel safe as $$
    select pg_visible_in_snapshot(
        (top + ((writer::text::bigint - (top & 4294967295) + 6442450944) & 4294967295) - 2147483648)::text::xid8, view
    )
    from (select pg_snapshot_xmax(view)::text::bigint as top) as v
$$;
