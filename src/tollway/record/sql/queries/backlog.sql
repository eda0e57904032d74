-- name: prepare_backlog_read
-- For this transaction only: one pass over the queue into a hash, whatever the planner believed of a table that was empty
-- when the plan was made, and on one core, which is all that counting deserves.
select set_config('enable_sort', 'off', true), set_config('max_parallel_workers_per_gather', '0', true), set_config('jit', 'off', true)

-- name: read_backlog
-- Live runs by lane, class, state and kind of gate (the word before its colon; null is none), the tenants of each in one
-- row: thousands of rows would hold up whoever reads them. A row without counts names lines that are shut. They are
-- joined by whoever reads this: a plan made for a few lines would join ten thousand by a loop.
select lane, class, state, gate, array_agg(tenant) as tenants, array_agg(runs) as runs
from (
    select lane, class, tenant, state, split_part(gate, ':', 1) as gate, count(*)::integer as runs
    from queue
    group by 1, 2, 3, 4, 5
) as line
group by 1, 2, 3, 4
union all
select lane, class, state, null, array_agg(tenant), null
from flow
where state >= 2
group by 1, 2, 3

-- name: read_line_costs
-- What a run of each open line cost lately, nano-dollars.
select lane, class, array_agg(tenant) as tenants, array_agg(est_nano) as costs
from flow
where state = 0 and est_nano > 0
group by 1, 2
