-- name: write_journal
-- Parameters 71 and 72 are the least and the greatest run id: a generic plan prunes partitions by a range alone.
-- Writes what running runs did, under their fence: intents, outcomes, money (with what it moves in budgets) and events. A run whose lease (worker, fence)
-- or place in its history (next_seq) is not as the writer believes is left out, with all that belongs to it.
-- Returns the runs written.
--
-- Here and in complete_runs, run and step are found by `any` and a range, and joined by the id as text, lest PostgreSQL 18
-- prunes their partitions both at the start (by the range) and while it runs (by the join): when it had to look again at a
-- row of `queue` that somebody changed meanwhile (a cancel), it pruned all of them, and updated nothing.
with writing as materialized (
    select * from unnest(
        $2::uuid[], $3::bigint[], $4::int[], $5::int[], $6::int[], $7::int[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[]
    ) as w (run_id, fence, seq, events, steps, llm_calls, input_tokens, output_tokens, cached_tokens, cost_nano)
), held as (
    update queue q
    set next_seq = q.next_seq + w.events, steps = q.steps + w.steps, llm_calls = q.llm_calls + w.llm_calls,
        input_tokens = q.input_tokens + w.input_tokens, output_tokens = q.output_tokens + w.output_tokens,
        cached_tokens = q.cached_tokens + w.cached_tokens, cost_nano = q.cost_nano + w.cost_nano
    from writing w
    where q.run_id = w.run_id and q.fence = w.fence and q.worker = $1 and q.next_seq = w.seq
    returning q.run_id, q.lane, q.class
), intended as (
    insert into step as s (run_id, n, path, kind, name, attempt, fence, call_id, reserved_nano, started_at, route, tier, asked, model, price_version)
    select i.* from unnest(
        $12::uuid[], $13::int[], $14::text[], $15::text[], $16::text[], $17::int[], $18::bigint[], $19::uuid[], $20::bigint[],
        $21::timestamptz[], $22::text[], $23::text[], $24::text[], $25::text[], $26::text[]
    ) as i (
        run_id, n, path, kind, name, attempt, fence, call_id, reserved_nano, started_at, route, tier, asked, model, price_version
    )
    join held h on h.run_id = i.run_id
    on conflict (run_id, n) do update
    set state = 'intent', attempt = excluded.attempt, fence = excluded.fence, call_id = excluded.call_id,
        reserved_nano = excluded.reserved_nano, started_at = excluded.started_at, route = excluded.route,
        tier = excluded.tier, asked = excluded.asked, model = excluded.model, price_version = excluded.price_version, ended_at = null, error = null, result = null
), finished as (
    update step s
    set state = o.state, ended_at = o.ended_at, result = o.result, error = o.error, route = o.route, calls = s.calls + o.calls,
        input_tokens = s.input_tokens + o.input_tokens, output_tokens = s.output_tokens + o.output_tokens,
        cached_tokens = s.cached_tokens + o.cached_tokens, cost_nano = s.cost_nano + o.cost_nano,
        cached = o.cached, saved_nano = o.saved_nano
    from unnest(
        $27::uuid[], $28::int[], $29::text[], $30::timestamptz[], $31::bytea[], $32::text[], $33::text[], $34::int[],
        $35::bigint[], $36::bigint[], $37::bigint[], $38::bigint[], $39::bool[], $40::bigint[]
    ) as o (
        run_id, n, state, ended_at, result, error, route, calls, input_tokens, output_tokens, cached_tokens, cost_nano, cached, saved_nano
    )
    join held h on h.run_id = o.run_id
    where s.run_id = any($2) and s.n = any($28) and s.run_id::text = o.run_id::text and s.n = o.n
        and s.run_id between $71 and $72
), paid as (
    insert into ledger (
        call_id, kind, run_id, n, tenant, route, model, price_version, nano, input_tokens, output_tokens, cached_tokens, estimated, at,
        key_id, task_type, step, tier, asked, cached, saved_nano, saved_prompt_nano, saved_shift_nano, agent, lane
    )
    select l.*, h.class, h.lane from unnest(
        $41::uuid[], $42::text[], $43::uuid[], $44::int[], $45::text[], $46::text[], $47::text[], $48::text[],
        $49::bigint[], $50::bigint[], $51::bigint[], $52::bigint[], $53::bool[], $54::timestamptz[], $55::text[], $56::text[],
        $57::text[], $58::text[], $59::text[], $60::text[], $61::bigint[], $62::bigint[], $63::bigint[]
    ) as l (
        call_id, kind, run_id, n, tenant, route, model, price_version, nano, input_tokens, output_tokens, cached_tokens, estimated, at,
        key_id, task_type, step, tier, asked, cached, saved_nano, saved_prompt_nano, saved_shift_nano
    )
    join held h on h.run_id = l.run_id
    on conflict (call_id, kind) do nothing
), moved as (
    insert into budget_delta (process, accounts, spent_nano, reserved_nano)
    select $1, string_to_array(m.accounts, ',')::bigint[], sum(m.spent)::bigint, sum(m.reserved)::bigint
    from unnest($73::uuid[], $74::text[], $75::bigint[], $76::bigint[]) as m (run_id, accounts, spent, reserved)
    join held h on h.run_id = m.run_id
    group by m.accounts
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select e.* from unnest(
        $64::uuid[], $65::int[], $66::text[], $67::timestamptz[], $68::text[], $69::text[], $70::text[]
    ) as e (run_id, seq, type, at, actor_kind, actor_id, data)
    join held h on h.run_id = e.run_id
)
select run_id from held;

-- name: complete_runs
-- Ends runs, with the last outcomes, money and events they bring along. The parameters of write_journal without its
-- intents come first; a run that is not held as the writer believes is left out whole. Concurrency keys pass to their heirs.
-- Returns the runs ended, and the lanes of the heirs.
with ending as materialized (
    select * from unnest(
        $2::uuid[], $3::bigint[], $4::int[], $5::int[], $6::int[], $7::int[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
        $55::text[], $56::bytea[], $57::text[], $58::text[], $59::timestamptz[], $60::text[], $61::text[]
    ) as e (
        run_id, fence, seq, events, steps, llm_calls, input_tokens, output_tokens, cached_tokens, cost_nano,
        state, output, error_code, error_message, ended_at, degraded, fingerprint
    )
    order by run_id -- one order for all who wait for such rows
), held as (
    delete from queue q using ending e
    where q.run_id = e.run_id and q.fence = e.fence and q.worker = $1 and q.next_seq = e.seq
    returning q.run_id, q.tenant, q.lane, q.class, q.errors, q.lost, q.started_at, q.steps, q.llm_calls, q.input_tokens,
        q.output_tokens, q.cached_tokens, q.cost_nano, q.concurrency_key
), ended as (
    update run r
    set state = e.state, output = e.output, error_code = e.error_code, error_message = e.error_message, fence = e.fence,
        attempt = 1 + h.errors + h.lost, started_at = h.started_at, ended_at = e.ended_at,
        steps = h.steps + e.steps, llm_calls = h.llm_calls + e.llm_calls, tool_calls = 0,
        input_tokens = h.input_tokens + e.input_tokens, output_tokens = h.output_tokens + e.output_tokens,
        cached_tokens = h.cached_tokens + e.cached_tokens, cost_nano = h.cost_nano + e.cost_nano,
        degraded = string_to_array(e.degraded, ','), ended_xid = this_xid()
    from held h join ending e on e.run_id = h.run_id
    where r.id = any($2) and r.id::text = h.run_id::text and r.id between $63 and $64
    returning r.id, r.webhook_url, r.webhook_secret_env
), finished as (
    update step s
    set state = o.state, ended_at = o.ended_at, result = o.result, error = o.error, route = o.route, calls = s.calls + o.calls,
        input_tokens = s.input_tokens + o.input_tokens, output_tokens = s.output_tokens + o.output_tokens,
        cached_tokens = s.cached_tokens + o.cached_tokens, cost_nano = s.cost_nano + o.cost_nano,
        cached = o.cached, saved_nano = o.saved_nano
    from unnest(
        $12::uuid[], $13::int[], $14::text[], $15::timestamptz[], $16::bytea[], $17::text[], $18::text[], $19::int[],
        $20::bigint[], $21::bigint[], $22::bigint[], $23::bigint[], $24::bool[], $25::bigint[]
    ) as o (
        run_id, n, state, ended_at, result, error, route, calls, input_tokens, output_tokens, cached_tokens, cost_nano, cached, saved_nano
    )
    join held h on h.run_id = o.run_id
    where s.run_id = any($2) and s.n = any($13) and s.run_id::text = o.run_id::text and s.n = o.n
        and s.run_id between $63 and $64
), paid as (
    insert into ledger (
        call_id, kind, run_id, n, tenant, route, model, price_version, nano, input_tokens, output_tokens, cached_tokens, estimated, at,
        key_id, task_type, step, tier, asked, cached, saved_nano, saved_prompt_nano, saved_shift_nano, agent, lane
    )
    select l.*, h.class, h.lane from unnest(
        $26::uuid[], $27::text[], $28::uuid[], $29::int[], $30::text[], $31::text[], $32::text[], $33::text[],
        $34::bigint[], $35::bigint[], $36::bigint[], $37::bigint[], $38::bool[], $39::timestamptz[], $40::text[], $41::text[],
        $42::text[], $43::text[], $44::text[], $45::text[], $46::bigint[], $47::bigint[], $48::bigint[]
    ) as l (
        call_id, kind, run_id, n, tenant, route, model, price_version, nano, input_tokens, output_tokens, cached_tokens, estimated, at,
        key_id, task_type, step, tier, asked, cached, saved_nano, saved_prompt_nano, saved_shift_nano
    )
    join held h on h.run_id = l.run_id
    on conflict (call_id, kind) do nothing
), moved as (
    insert into budget_delta (process, accounts, spent_nano, reserved_nano)
    select $1, string_to_array(m.accounts, ',')::bigint[], sum(m.spent)::bigint, sum(m.reserved)::bigint
    from unnest($65::uuid[], $66::text[], $67::bigint[], $68::bigint[]) as m (run_id, accounts, spent, reserved)
    join held h on h.run_id = m.run_id
    group by m.accounts
), told as (
    insert into event (run_id, seq, type, at, actor_kind, actor_id, data)
    select e.* from unnest(
        $49::uuid[], $50::int[], $51::text[], $52::timestamptz[], $53::text[], $54::text[], $62::text[]
    ) as e (run_id, seq, type, at, actor_kind, actor_id, data)
    join held h on h.run_id = e.run_id
), mourned as (
    insert into dead_letter (run_id, tenant, agent, lane, fingerprint, code, message, cost_nano, died_at)
    select h.run_id, h.tenant, h.class, h.lane, e.fingerprint, e.error_code, e.error_message, h.cost_nano + e.cost_nano, e.ended_at
    from held h join ending e on e.run_id = h.run_id
    where e.state = 'dead'
    on conflict (run_id) do nothing
), hooked as (
    insert into webhook_delivery (run_id, url, secret_env, due_at)
    select id, webhook_url, webhook_secret_env, now() from ended where webhook_url is not null
    on conflict (run_id) do nothing
), passed as materialized (
    select p.* from (
        select array_agg(tenant) as tenants, array_agg(concurrency_key) as keys from held where concurrency_key is not null
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
select h.run_id, e.lanes from held h left join entered e on true;

-- name: find_writes
-- For writes that were refused: where their runs stand now, to tell a lost answer from a lost lease.
select u.run_id, q.worker, q.fence, q.next_seq, r.state, r.fence as final_fence
from unnest($1::uuid[]) as u (run_id)
left join queue q on q.run_id = u.run_id
left join run r on r.id = u.run_id and r.id between $2 and $3;

-- name: read_steps
-- The journal of runs about to be replayed.
select run_id, n, path, kind, name, state, attempt, fence, call_id, reserved_nano, started_at, ended_at, result, error, route, cached, calls, cost_nano,
    tier, asked, model, price_version
from step
where run_id = any ($1::uuid[]) and run_id between $2 and $3
order by run_id, n;

-- name: read_stood
-- On which rungs of budgets runs stood that are about to be replayed; what parked a run is in no step.
select run_id, data::jsonb ->> 'rung' as rung
from event
where run_id = any ($1::uuid[]) and run_id between $2 and $3 and type = 'degraded' and data::jsonb ? 'budget'
order by run_id, seq;

-- name: read_unknown_nano
-- What calls of runs may have cost of which nobody saw the outcome; $2 is the least id that any of them may have.
select run_id, sum(nano)::bigint as nano
from ledger
where run_id = any ($1::uuid[]) and kind = 'unknown' and call_id >= $2::uuid
group by run_id
