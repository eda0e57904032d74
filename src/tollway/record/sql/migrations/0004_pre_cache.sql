-- Answers that may be given again: the cache's tier between processes, beneath the memory of each.
--
-- Unlogged: an answer lost is one call more, so nothing of it is worth the log, and after a crash of the server the table
-- is empty. `key` is a hash of all that shapes the answer, its tenant and agent version included; these two stand beside it
-- for whoever wants to count or delete by them ('' is the agent of a call over the wire). What is over its time, and what
-- is too much, the keeper drops by `expires_at`.

create unlogged table answer (
    key        bytea primary key check (length(key) = 32),
    tenant     text collate "C" not null,
    agent      text collate "C" not null,
    value      bytea not null,
    expires_at timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
-- compressing costs more CPU than it saves of a disk nobody waits for
alter table answer alter column value set storage external;
create index answer_by_end on answer (expires_at);
