-- name: open_wire_calls
-- Reserves the worst case of calls about to be made. Safe to repeat. Who reserves in budgets must be on record until that
-- stands: the slices of a process that is taken away are closed. Returns the calls that may not be made for that.
with calls as materialized (
    select * from unnest(
        $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
        $11::bigint[], $12::timestamptz[], $13::text[], $14::text[], $15::text[]
    ) as c (
        call_id, process, tenant, key_id, lane, tier, route, provider, model, price_version, reserved_nano, at, task_type, asked, accounts
    )
), alive as materialized (
    select p.id from process p where p.id in (select c.process from calls c where c.accounts is not null) order by p.id for key share
), opened as (
    insert into wire_call (
        call_id, process, tenant, key_id, lane, tier, route, provider, model, price_version, reserved_nano, at, task_type, asked, accounts
    )
    select * from calls c where c.accounts is null or c.process in (select a.id from alive a)
    on conflict (call_id) do nothing
    returning process, accounts, reserved_nano
), moved as (
    insert into budget_delta (process, accounts, spent_nano, reserved_nano)
    select o.process, string_to_array(o.accounts, ',')::bigint[], 0, sum(o.reserved_nano)::bigint
    from opened o where o.accounts is not null group by o.process, o.accounts
)
select c.call_id from calls c where c.accounts is not null and c.process not in (select a.id from alive a);

-- name: close_wire_calls
-- Ends reservations, each with its ledger entry; what a call cost beyond its reservation is an entry of its own. `nano` null
-- is the reserved worst case. What is not reserved any more (its process was taken for dead, or this is a repeated write)
-- has its entry already.
with closing as materialized (
    select * from unnest(
        $1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bool[], $8::timestamptz[],
        $9::bigint[], $10::bigint[]
    ) as c (call_id, kind, nano, input_tokens, output_tokens, cached_tokens, estimated, at, saved_prompt_nano, saved_shift_nano)
), closed as (
    delete from wire_call w using closing c where w.call_id = any ($1::uuid[]) and w.call_id = c.call_id
    returning w.*, c.kind, c.input_tokens, c.output_tokens, c.cached_tokens, c.estimated, c.at as ended_at,
        least(c.nano, w.reserved_nano) as nano, c.nano - w.reserved_nano as excess, c.saved_prompt_nano, c.saved_shift_nano
), moved as (
    insert into budget_delta (process, accounts, spent_nano, reserved_nano)
    select d.process, string_to_array(d.accounts, ',')::bigint[], sum(d.nano + greatest(d.excess, 0))::bigint, -sum(d.reserved_nano)::bigint
    from closed d where d.accounts is not null group by d.process, d.accounts
)
insert into ledger (
    call_id, kind, tenant, key_id, lane, task_type, tier, asked, route, model, price_version, at,
    nano, input_tokens, output_tokens, cached_tokens, estimated, saved_prompt_nano, saved_shift_nano
)
select d.call_id, e.kind, d.tenant, d.key_id, d.lane, d.task_type, d.tier, d.asked, d.route, d.model, d.price_version, d.ended_at,
    e.nano, e.input_tokens, e.output_tokens, e.cached_tokens, e.estimated, e.saved_prompt_nano, e.saved_shift_nano
from closed d
cross join lateral (
    values (
        d.kind, d.nano, d.input_tokens, d.output_tokens, d.cached_tokens, d.estimated, d.saved_prompt_nano, d.saved_shift_nano
    ), ('adjust', d.excess, 0, 0, 0, false, null, null)
) as e (kind, nano, input_tokens, output_tokens, cached_tokens, estimated, saved_prompt_nano, saved_shift_nano)
where e.kind <> 'adjust' or e.nano > 0
on conflict (call_id, kind) do nothing;

-- name: note_wire_hits
-- Answers given again to calls over the wire: entries of no money. Safe to repeat.
insert into ledger (
    call_id, kind, tenant, key_id, lane, tier, asked, task_type, route, model, cached, nano, saved_nano, at
)
select h.call_id, 'saved', h.tenant, h.key_id, h.lane, h.tier, h.asked, h.task_type, h.route, h.model, h.cached, 0, h.saved_nano, h.at
from unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
    $11::bigint[], $12::timestamptz[]
) as h (call_id, tenant, key_id, lane, tier, asked, task_type, route, model, cached, saved_nano, at)
on conflict (call_id, kind) do nothing;

-- name: find_lost_wire_calls
-- Processes that are gone, and left calls behind.
select distinct process from wire_call w where not exists (select from process p where p.id = w.process);

-- name: end_lost_wire_calls
-- Calls of processes that are gone may have been billed: their reservations become `unknown` entries. Returns their tenants.
with lost as (
    delete from wire_call w where w.process = any ($1::bigint[]) and not exists (select from process p where p.id = w.process)
    returning *
)
insert into ledger (call_id, kind, tenant, key_id, lane, task_type, tier, asked, route, model, price_version, nano, estimated, at)
select call_id, 'unknown', tenant, key_id, lane, task_type, tier, asked, route, model, price_version, reserved_nano, true, clock_timestamp()
from lost
on conflict (call_id, kind) do nothing
returning tenant;
