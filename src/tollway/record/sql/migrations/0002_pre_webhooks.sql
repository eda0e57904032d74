-- Deliveries of webhooks: `host` bounds what one receiver may take of a deliverer's places, `gave_up_at` keeps a delivery
-- that failed to the last for inspection, out of the way of those still due.
--
--     inserted with the run's end -> claimed (due_at = end of the lease, attempts + 1) -> deleted (delivered)
--                                         ^------ due again, or lease over ------|     \-> gave_up_at

alter table webhook_delivery
    add column host text collate "C" generated always as (
        coalesce(lower(substring(url from '^[A-Za-z]+://(?:[^/?#]*@)?([^/?#]+)')), '')
    ) stored,
    add column gave_up_at timestamptz;
drop index webhook_delivery_due;
create index webhook_delivery_due on webhook_delivery (due_at) where gave_up_at is null;
create index webhook_delivery_given_up on webhook_delivery (gave_up_at) where gave_up_at is not null;
