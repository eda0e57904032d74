-- name: prepare_backlog_read
-- For this transaction only: one pass over the queue into a hash, whatever the planner believed of a table that was empty
-- when the plan was made, and on one core, which is all that counting deserves.
select set_config('enable_sort', 'off', true), set_config('max_parallel_workers_per_gather', '0', true), set_config('jit', 'off', true)

-- name: read_backlog
-- Live runs by line, state and kind of gate (the word before its colon; null is none). A row without a count names a line
-- that is shut. It is joined by whoever reads this: a plan made for a few lines would join ten thousand by a loop.
select lane, class, tenant, state, split_part(gate, ':', 1) as gate, count(*)::integer as runs
from queue
group by 1, 2, 3, 4, 5
union all
select lane, class, tenant, state, null, null
from flow
where state >= 2

-- name: read_line_costs
-- What a run of each open line cost lately, nano-dollars.
select lane, class, tenant, est_nano from flow where state = 0 and est_nano > 0
