-- name: list_dead_letters
-- Dead letters nobody has replayed yet, grouped by fingerprint and agent, the latest group first. ($6, $7, $8) is the cursor.
select fingerprint, agent, count(*) as count, min(died_at) as first_died_at, max(died_at) as last_died_at,
       sum(cost_nano)::bigint as cost_nano,
       (array_agg(code order by run_id desc))[1] as code,
       (array_agg(message order by run_id desc))[1] as message,
       (array_agg(run_id order by run_id desc))[1:5] as examples
from dead_letter
where replayed_as is null
  and ($1::text is null or tenant = $1) and ($2::text is null or fingerprint = $2) and ($3::text is null or agent = $3)
  and ($4::text is null or lane = $4) and ($5::text is null or code = $5)
group by fingerprint, agent
having $6::timestamptz is null or (max(died_at), fingerprint, agent) < ($6, $7::text, $8::text)
order by max(died_at) desc, fingerprint desc, agent desc
limit $9

-- name: list_dead_ids
-- Runs of the dead letters that fit, oldest first.
select run_id
from dead_letter
where replayed_as is null
  and ($1::text is null or tenant = $1) and ($2::text is null or fingerprint = $2) and ($3::text is null or agent = $3)
  and ($4::text is null or lane = $4) and ($5::text is null or code = $5)
order by run_id
limit $6
