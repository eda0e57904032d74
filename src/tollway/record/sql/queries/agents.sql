-- name: list_agents
-- Every agent as workers published it, the newest version of a name last.
select name, version, lane, tier, input_schema::text as input_schema, output_schema::text as output_schema,
       timeout_s, max_attempts, requires, priority_s, published_at
from agent
order by name, published_at

-- name: publish_agents
-- Writes what a worker serves; the settings' version rises only when something is new, so a restart is silent.
with given as (
    select * from jsonb_to_recordset($1::jsonb) as g (name text, version text, lane text, tier text, input_schema jsonb,
        output_schema jsonb, timeout_s float8, max_attempts integer, requires text[], priority_s float8)
), put as (
    insert into agent as a (name, version, lane, tier, input_schema, output_schema, timeout_s, max_attempts, requires, priority_s)
    select name, version, lane, tier, input_schema, output_schema, timeout_s, max_attempts, requires, priority_s
    from given order by name, version
    on conflict (name, version) do update set
        lane = excluded.lane, tier = excluded.tier, input_schema = excluded.input_schema, output_schema = excluded.output_schema,
        timeout_s = excluded.timeout_s, max_attempts = excluded.max_attempts, requires = excluded.requires,
        priority_s = excluded.priority_s, published_at = now()
    where (a.lane, a.tier, a.input_schema, a.output_schema, a.timeout_s, a.max_attempts, a.requires, a.priority_s)
        is distinct from (excluded.lane, excluded.tier, excluded.input_schema, excluded.output_schema, excluded.timeout_s,
                          excluded.max_attempts, excluded.requires, excluded.priority_s)
        or exists (select from agent other where other.name = a.name and other.published_at > a.published_at)
    returning name
)
update settings_version set version = version + 1 where exists (select from put) returning version
