"""A worker that stands still beyond its lease, and comes back."""

import signal

from checks import lost_workers
from stack import Start


async def test_a_stopped_worker_loses_its_runs_and_its_place(up: Start) -> None:
    """P3: its runs succeed elsewhere; awake again it writes nothing, ends, and another takes its place."""
    async with up(workers=2, latency_s=0.6, heartbeat_s=0.5, lease_ttl_s=2) as stack:
        accepted = [await stack.submit("patient", f"{stack.began.hex[:12]}-{number}") for number in range(40)]

        async def holder() -> int | None:
            async with stack.record() as record:
                found = await record.fetchval(
                    "select p.pid from process p join queue q on q.worker = p.id where q.state = 1 and q.steps > 0"
                    " group by p.pid order by count(*) desc limit 1"
                )
            return None if found is None else int(found)

        stopped = await stack.until("a worker has runs", holder)
        stack.signal(stopped, signal.SIGSTOP)
        await stack.until_rest()
        stack.signal(stopped, signal.SIGCONT)

        def replaced() -> bool:
            workers = stack.pids("worker")
            return stopped not in workers and len(workers) == 2

        await stack.until("another worker takes its place", replaced)
        history = await stack.history_without_faults(accepted)
    assert [run for run in history.runs.values() if lost_workers(run) == 1]
    assert '"event":"worker.lost"' in stack.log()
