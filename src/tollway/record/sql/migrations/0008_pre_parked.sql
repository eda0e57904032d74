-- A parked run waits behind the gate of time like a queued one that is not due.
alter table queue drop constraint queue_check1;
alter table queue add constraint queue_gated_at_rest check (gate is null or state in (0, 3));
