-- Runs that a worker gave back, or lost, after somebody asked to cancel them: the keeper ends them, since their line may be
-- shut and their class held. By who asked, so that the first is found in the index whatever the statistics say.
create index queue_cancelled on queue (cancelled_by) where cancelled_by is not null and state <> 1;
