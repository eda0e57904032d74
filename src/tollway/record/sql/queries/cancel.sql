-- name: lock_free_runs
-- Locks live runs, whatever their state, but for those that somebody else has locked: claims and journals lock rows in orders
-- of their own, so to wait for them would be to deadlock with them.
select run_id from queue where run_id = any($1::uuid[]) order by run_id for update skip locked

-- name: end_queued_runs
-- Ends runs that no worker holds (queued, waiting, parked): $2 state, $3 code, $4 a message for each or null, $5 and $6 the actor.
-- Dead ones become dead letters (grouped by agent and code: they died at no place of the agent's code), and their attempt is
-- the last one that began: none is under way here.
-- A step left between intent and outcome ends as unknown, and its reservation stands in the ledger.
-- Rows are locked in the order of their ids, so two callers cannot deadlock; runs a worker holds are left out, and what somebody
-- else has locked, such as a claim. Concurrency keys pass to their heirs. Returns the ids ended, and the lanes of the heirs.
-- $7 and $8 are the least and the greatest id. Runs and steps are joined by the id as text, and steps are asked for by an array:
-- PostgreSQL 18 must not prune their partitions while it runs. Once it looked again at a row of `queue` that somebody changed
-- meanwhile, what it prunes by is freed memory: it finds nothing (see write_journal), or crashes. (That is so of
-- every `with` of a statement that writes or locks rows it found; its main plan, if that only reads, is safe.)
with locked as materialized (
    select run_id from queue where run_id = any($1::uuid[]) and state in (0, 2, 3) order by run_id for update skip locked
), gone as (
    delete from queue q using locked l
    where q.run_id = l.run_id and q.state in (0, 2, 3)
    returning q.*, ($4::text[])[array_position($1::uuid[], q.run_id)] as message
), ended as (
    update run r
    set state = $2, error_code = $3, error_message = g.message, fence = g.fence, attempt = g.errors + g.lost + case when $2 = 'dead' then 0 else 1 end,
        started_at = g.started_at, ended_at = clock_timestamp(), steps = g.steps, llm_calls = g.llm_calls, tool_calls = 0,
        input_tokens = g.input_tokens, output_tokens = g.output_tokens, cached_tokens = g.cached_tokens, cost_nano = g.cost_nano,
        ended_xid = this_xid()
    from gone g
    where r.id = any($1::uuid[]) and r.id::text = g.run_id::text and r.id between $7 and $8 and r.state is null
    returning r.id, r.ended_at, r.steps, r.webhook_url, r.webhook_secret_env, r.key_id, r.metadata,
        case when $2 = 'dead' then left(encode(sha256(convert_to(r.agent || E'\n' || $3 || E'\n', 'UTF8')), 'hex'), 16) end as fingerprint
), cut as (
    update step s
    set state = 'unknown', ended_at = e.ended_at, error = 'cut between intent and outcome'
    from ended e
    where e.steps > 0 and s.run_id = any (array(select id from ended where steps > 0)) and s.run_id::text = e.id::text
        and s.run_id between $7 and $8 and s.state = 'intent'
    returning s.run_id, s.n, s.name, s.kind, s.call_id, s.reserved_nano, s.route, s.tier, s.asked, s.model, s.price_version, s.ended_at
), counted as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select c.run_id, g.next_seq - 1 + row_number() over (partition by c.run_id order by c.n), 'step.unknown', c.ended_at, $5, $6,
           jsonb_build_object('n', c.n, 'call_id', c.call_id, 'reserved_nano', c.reserved_nano)::text
    from cut c join gone g on g.run_id = c.run_id
), owed as (
    insert into ledger (
        call_id, kind, run_id, n, step, tenant, agent, lane, key_id, task_type, route, tier, asked, model, price_version, nano, estimated, at
    )
    select c.call_id, 'unknown', c.run_id, c.n, c.name, g.tenant, g.class, g.lane, e.key_id, nullif(e.metadata ->> 'task_type', ''),
        c.route, c.tier, c.asked, c.model, c.price_version, c.reserved_nano, true, c.ended_at
    from cut c join gone g on g.run_id = c.run_id join ended e on e.id = c.run_id
    where c.kind = 'llm' or c.reserved_nano > 0
    on conflict (call_id, kind) do nothing
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select g.run_id, g.next_seq + (select count(*)::int from cut c where c.run_id = g.run_id), $2, e.ended_at, $5, $6,
           case when $3::text is not null then
               jsonb_strip_nulls(jsonb_build_object('code', $3::text, 'message', g.message, 'fingerprint', e.fingerprint))::text
           end
    from gone g join ended e on e.id = g.run_id
), mourned as (
    insert into dead_letter (run_id, tenant, agent, lane, fingerprint, code, message, cost_nano, died_at)
    select g.run_id, g.tenant, g.class, g.lane, e.fingerprint, $3, g.message, g.cost_nano, e.ended_at
    from gone g join ended e on e.id = g.run_id
    where $2 = 'dead'
    on conflict (run_id) do nothing
), hooked as (
    insert into webhook_delivery (run_id, url, secret_env, due_at)
    select id, webhook_url, webhook_secret_env, now() from ended where webhook_url is not null
    on conflict (run_id) do nothing
), passed as materialized (
    select p.* from (
        select array_agg(tenant) as tenants, array_agg(concurrency_key) as keys from gone where concurrency_key is not null
        having count(*) > 0
    ) as k
    cross join lateral pass_keys(k.tenants, k.keys) as p
), entered as materialized (
    select array_agg(lane) as lanes, enter_flows(array_agg(lane), array_agg(class), array_agg(tenant), array_agg(place))
    from (
        select lane, class, tenant, min(place) as place from passed group by lane, class, tenant order by lane, class, tenant
    ) as line
    having count(*) > 0
)
select d.id, e.lanes from ended d left join entered e on true

-- name: request_cancel
-- Marks running runs for cancellation; $2 is who asks for each. Returns the ids that are running, marked now or before.
with locked as materialized (
    select run_id from queue where run_id = any($1::uuid[]) and state = 1 order by run_id for update
)
update queue q set cancelled_by = coalesce(q.cancelled_by, ($2::text[])[array_position($1::uuid[], q.run_id)])
from locked l
where q.run_id = l.run_id
returning q.run_id

-- name: find_cancelled
-- Runs that somebody wants cancelled and no worker holds any more, at most $1, and who asked.
select cancelled_by, array_agg(run_id) as ids
from (
    select run_id, cancelled_by from queue where cancelled_by is not null and state <> 1 order by cancelled_by limit $1
) as q
group by cancelled_by;

-- name: find_live
-- Which of the given runs have not ended.
select run_id from queue where run_id = any($1::uuid[])
