"""PostgreSQL and the API die by kill -9 under load."""

import asyncio
import signal
import time
from collections.abc import Callable

import pytest
from checks import lost_workers
from stack import Stack, Start

STARTED_AGAIN_S = 2.0


@pytest.mark.slow
async def test_kill_9_of_postgres_and_api_loses_nothing(up: Start) -> None:
    """P1: what was accepted ends well; the dead are started again within 2 s; no worker is held dead for an outage."""
    async with up(workers=2, heartbeat_s=0.5, lease_ttl_s=2) as stack:
        workers = stack.pids("worker")
        loading = asyncio.create_task(stack.load(("one_call", "task_and_call", "branches"), 40, 10))
        for _ in range(2):
            await asyncio.sleep(1.5)
            await _kill(stack, lambda: stack.pids("api")[0])
            await asyncio.sleep(1.5)
            await _kill(stack, stack.postmaster)
        accepted = await loading
        history = await stack.history_without_faults(accepted)
        assert stack.pids("worker") == workers
    assert not [run for run in history.runs.values() if lost_workers(run)]


async def _kill(stack: Stack, find: Callable[[], int]) -> None:
    pid = find()
    stack.signal(pid, signal.SIGKILL)
    killed_at = time.monotonic()

    def again() -> bool:
        try:
            return find() != pid
        except (OSError, IndexError, ValueError):
            return False

    await stack.until("started again", again, 20)
    assert time.monotonic() - killed_at < STARTED_AGAIN_S
