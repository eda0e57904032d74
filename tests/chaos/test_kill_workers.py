"""Workers die by kill -9, again and again, under a steady load."""

import asyncio
import os
import random
import signal
from collections import Counter

import pytest
from history import History
from stack import Stack, Start

RUNS_PER_S = 100
KILL_EVERY_S = 3.0
SECONDS = float(os.environ.get("TOLLWAY_CHAOS_SECONDS", "15"))

_IN_FLIGHT = """select count(*) from step s join queue q on q.run_id = s.run_id
    where q.state = 1 and q.worker = $1 and s.state = 'intent' and s.kind = 'llm'"""


@pytest.mark.slow
@pytest.mark.timeout(180 + 4 * SECONDS)
async def test_kill_9_of_workers_loses_and_repeats_nothing(up: Start) -> None:
    """P1, P2: every accepted run succeeds, no recorded step repeats, and repeated calls were in flight at a kill."""
    async with up(workers=2) as stack:
        killing = asyncio.create_task(_kill_workers(stack))
        accepted = await stack.load(("one_call", "task_and_call"), RUNS_PER_S, SECONDS)
        killing.cancel()
        in_flight, kills = await killing
        history = await stack.history_without_faults(accepted)
    assert kills >= int(SECONDS / KILL_EVERY_S) - 2
    assert len(accepted) == len(set(accepted)) == int(RUNS_PER_S * SECONDS)
    repeated = _repeated_calls(history)
    print(f"{len(accepted)} runs, {kills} kills, {in_flight} calls in flight at them, {repeated} repeated")
    assert repeated <= in_flight


async def _kill_workers(stack: Stack) -> tuple[int, int]:
    """Until cancelled; returns how many calls were in flight at the kills, and how many those were."""
    in_flight = kills = 0
    try:
        async with stack.record() as record:
            while True:
                await asyncio.sleep(KILL_EVERY_S)
                pid = random.choice(await stack.until("a worker lives", lambda: stack.pids("worker")))
                worker = await record.fetchval("select max(id) from process where role = 'worker' and pid = $1", pid)
                stack.signal(pid, signal.SIGKILL)
                in_flight += await record.fetchval(_IN_FLIGHT, worker)
                kills += 1
    except asyncio.CancelledError:
        return in_flight, kills


def _repeated_calls(history: History) -> int:
    """Calls at the provider beyond the first of each step."""
    steps = {call_id: (run.id, n) for run in history.runs.values() for n, call_id in run.calls()}
    times = Counter(steps[call.call_id] for call in history.calls)
    return sum(count - 1 for count in times.values())
