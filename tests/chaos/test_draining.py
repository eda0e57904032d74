"""Workers that are asked to stop in the middle of work, again and again, while others start."""

import asyncio
import signal
from uuid import UUID

from history import History
from stack import Stack, Start, alive

LOAD_S = 8.0
RUNS_PER_S = 15.0


def assert_hand_backs_cost_nothing(history: History) -> int:
    """Being handed back is no attempt and no loss of a worker; how many hand-backs there were."""
    handed_back = 0
    for run in history.runs.values():
        types = [event.type for event in run.events]
        handed_back += types.count("handed_back")
        assert "retried" not in types, run
        assert run.row.attempt == 1, run
    return handed_back


async def test_workers_replaced_under_load(up: Start) -> None:
    """P1, P2: every run ends once, no recorded call is repeated, and who was handed back lost no attempt by it."""
    async with up(workers=2, latency_s=0.4, grace_s=0.3) as stack:
        load = asyncio.create_task(stack.load(["patient"], RUNS_PER_S, LOAD_S))
        drained = 0
        while not load.done():
            pids = stack.pids("worker")
            if len(pids) == stack.workers:
                stack.signal(pids[drained % 2], signal.SIGTERM)
                await stack.until("it has ended", lambda pid=pids[drained % 2]: not alive(pid))
                drained += 1
            await asyncio.sleep(0.1)
        history = await stack.history_without_faults(await load)
        assert drained >= 3
        assert assert_hand_backs_cost_nothing(history) > 0


async def test_workers_come_and_go_with_the_load(up: Start) -> None:
    """P1, P2: `--autoscale` grows with a load and shrinks after it, again and again; nothing is lost or repeated."""
    scaling = {"slots": 6, "grace_s": 0.3, "scale_down_after_s": 1.5, "heartbeat_s": 0.5}
    async with up(workers=1, autoscale="1..3", latency_s=0.4, **scaling) as stack:
        first = await grows_and_shrinks(stack, "a")
        second = await grows_and_shrinks(stack, "b")
        history = await stack.history_without_faults([*first, *second])
        assert_hand_backs_cost_nothing(history)
        told = stack.log()
        assert told.count("autoscale.grow") >= 2
        assert told.count("autoscale.shrink") >= 4


async def grows_and_shrinks(stack: Stack, tag: str) -> list[UUID]:
    """A load until there are three workers, and then nothing until there is one; the runs of the load."""
    load = asyncio.create_task(stack.load(["patient"], RUNS_PER_S, 4.0, tag))
    await stack.until("three workers", lambda: len(stack.pids("worker")) == 3)
    accepted = await load
    await stack.until("one worker", lambda: len(stack.pids("worker")) == 1)
    return accepted
