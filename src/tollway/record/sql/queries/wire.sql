-- name: open_wire_calls
-- Reserves the worst case of calls about to be made. Safe to repeat.
insert into wire_call (call_id, process, tenant, key_id, lane, tier, route, provider, model, price_version, reserved_nano, at)
select * from unnest(
    $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
    $11::bigint[], $12::timestamptz[]
)
on conflict (call_id) do nothing;

-- name: close_wire_calls
-- Ends reservations, each with its ledger entry. `nano` null is the reserved worst case. What is not reserved any more (its
-- process was taken for dead, or this is a repeated write) has its entry already.
with closing as materialized (
    select * from unnest(
        $1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bool[], $8::timestamptz[]
    ) as c (call_id, kind, nano, input_tokens, output_tokens, cached_tokens, estimated, at)
), closed as (
    delete from wire_call w using closing c where w.call_id = any ($1::uuid[]) and w.call_id = c.call_id
    returning w.call_id, w.tenant, w.key_id, w.tier, w.route, w.model, w.price_version, w.reserved_nano
)
insert into ledger (
    call_id, kind, tenant, key_id, tier, route, model, price_version, nano, input_tokens, output_tokens, cached_tokens, estimated, at
)
select d.call_id, c.kind, d.tenant, d.key_id, d.tier, d.route, d.model, d.price_version, coalesce(c.nano, d.reserved_nano),
    c.input_tokens, c.output_tokens, c.cached_tokens, c.estimated, c.at
from closed d join closing c on c.call_id = d.call_id
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
insert into ledger (call_id, kind, tenant, key_id, tier, route, model, price_version, nano, at)
select call_id, 'unknown', tenant, key_id, tier, route, model, price_version, reserved_nano, clock_timestamp() from lost
on conflict (call_id, kind) do nothing
returning tenant;
