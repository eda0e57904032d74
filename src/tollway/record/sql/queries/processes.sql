-- name: register_process
-- A new row of a process; its id is the incarnation no other process ever had. It has read no budgets yet.
insert into process (role, host, pid, lease_ttl_s, facts, budgets_seen)
values ($1, $2, $3, $4, $5::jsonb, case when $1 <> 'keeper' then 0 end) returning id

-- name: beat_process
-- One beat: says how far settings were read and what the process knows of itself, and learns the settings' version.
-- The version is read after the row is written, so a change that saw the old beat is seen by the next.
update process
set beat = beat + 1, beat_at = clock_timestamp(), settings_seen = greatest(settings_seen, $2), facts = $3::jsonb, stopping = $4
where id = $1
returning (select version from settings_version) as version

-- name: leave_process
-- The process stops in good order. A row that still holds runs stays, so that they are taken back when its lease ends.
delete from process where id = $1 and not exists (select from queue where worker = $1 and state = 1)

-- name: list_processes
-- Every process of these roles with a beat within its lease.
select id, role, host, pid, stopping, settings_seen, facts::text as facts, started_at
from process
where role = any ($1::text[]) and beat_at > clock_timestamp() - make_interval(secs => lease_ttl_s)
order by id

-- name: count_behind
-- Live API processes that have not read the settings up to a version.
select count(*)
from process
where role = 'api' and settings_seen < $1 and beat_at > clock_timestamp() - make_interval(secs => lease_ttl_s)

-- name: read_settings_version
-- How often settings have changed.
select version from settings_version


-- name: retire_process
-- Says of a process known to have ended that it has: what it held is taken back at the keeper's next look.
update process set lease_ttl_s = 0, beat_at = '-infinity', stopping = true, facts = facts || '{"claiming": false}'
where host = $1 and pid = any ($2::int[]) returning id
