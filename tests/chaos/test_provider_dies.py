"""The first of two providers dies by kill -9 under load."""

import asyncio

import pytest
from checks import lost_workers
from stack import Start

RUNS_PER_S = 50
SECONDS = 8
BEFORE = 60


@pytest.mark.slow
async def test_a_provider_that_dies_costs_no_run_and_no_attempt(up: Start) -> None:
    """P1, P2, P10: every run succeeds at its first attempt, by the second route; both providers' calls are in ours."""
    async with up(workers=2, second=True) as stack:
        loading = asyncio.create_task(stack.load(("one_call", "task_and_call", "branches"), RUNS_PER_S, SECONDS))

        async def in_the_midst() -> bool:
            return len(await stack.calls()) > BEFORE

        await stack.until("calls are made", in_the_midst)
        await stack.provider_dies()
        accepted = await loading
        history = await stack.history_without_faults(accepted)
    assert {history.runs[run_id].row.attempt for run_id in accepted} == {1}
    assert not [run for run in history.runs.values() if lost_workers(run)]
    charged = {call.call_id for call in history.calls}
    settled = {money.call_id for money in history.ledger if money.kind == "settle"}
    assert charged == settled
    assert len(charged) - len(stack.dead_calls) > BEFORE
    cut = [money for money in history.ledger if money.kind == "unknown"]
    assert cut, "no call was under way when the provider died"
    events = [event for run in history.runs.values() for event in run.events]
    assert len([event for event in events if event.type == "degraded"]) > BEFORE
