-- name: list_shifts
-- The tier shifts in force, in their order.
select tenant, agent, task_type, from_tier, to_tier from tier_shift order by place

-- name: clear_shifts
-- Ends them all; a statement of its own before put_shifts, under the same lock.
delete from tier_shift

-- name: put_shifts
-- Writes shifts in the order given; the settings' version rises with them.
with put as (
    insert into tier_shift (place, tenant, agent, task_type, from_tier, to_tier)
    select given.place - 1, s.tenant, s.agent, s.task_type, s.from_tier, s.to_tier
    from jsonb_array_elements($1::jsonb) with ordinality as given (shift, place),
         jsonb_to_record(given.shift) as s (tenant text, agent text, task_type text, from_tier text, to_tier text)
)
update settings_version set version = version + 1 returning version
