"""How attempts end, as values: by what the agent returns or raises, by time, by being stopped."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

import tollway
from executor_kit import NOW, StillClock, make_execution, outcome_of
from tollway.domain.errors import Fenced, JournalMismatch, LlmError
from tollway.domain.outcomes import (
    Abandoned,
    Cancelled,
    Dead,
    Expired,
    Failed,
    HandedBack,
    Outcome,
    RetryAt,
    Succeeded,
)
from tollway.runtime import executor as executor_module
from tollway.runtime.executor import RETRY_MAX_S
from tollway.runtime.registry import Registry


def raising(error: BaseException) -> None:
    """Register an agent that raises this."""

    @tollway.agent
    async def agent(run: tollway.Run) -> None:
        raise error


async def test_what_the_agent_returns_is_its_output(agents: Registry) -> None:
    """The input comes in its type, the output leaves as JSON of its type; tenant, attempt and metadata are told."""

    @tollway.agent
    async def agent(run: tollway.Run, numbers: tuple[int, ...]) -> dict[str, float]:
        assert (run.tenant, run.agent, run.attempt, run.metadata) == ("default", "agent", 3, {"k": "v"})
        assert run.budget.remaining_usd is None
        return {"sum": sum(numbers)}

    found = await outcome_of(agents, input=b"[1,2]", errors=1, lost=1, metadata='{"k":"v"}')
    assert found == Succeeded(b'{"sum":3.0}')


async def test_an_input_that_does_not_fit_fails_at_once(agents: Registry) -> None:
    """Asking again cannot help, so the run fails without the agent being called."""

    @tollway.agent
    async def agent(run: tollway.Run, number: int) -> None:
        raise AssertionError("never called")

    found = await outcome_of(agents, input=b'"text"')
    assert isinstance(found, Failed)
    assert found.code == "invalid_input"


async def test_an_output_that_does_not_fit_is_an_error(agents: Registry) -> None:
    """An agent that returns something else than it promised has failed the attempt."""

    @tollway.agent
    async def agent(run: tollway.Run) -> int:
        return "no number"  # type: ignore[return-value]

    found = await outcome_of(agents)
    assert isinstance(found, RetryAt)
    assert found.code == "ValidationError"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (tollway.Reject("no such customer"), Failed("rejected", "no such customer")),
        (JournalMismatch("1", "a", "b"), Failed("journal_mismatch", str(JournalMismatch("1", "a", "b")))),
        (tollway.StepUnknown("1", "pay"), Failed("step_unknown", str(tollway.StepUnknown("1", "pay")))),
        (tollway.Retry(7.5), RetryAt(7.5, "retry", "the agent asked for a retry")),
        (tollway.Retry(-1, "now"), RetryAt(0.0, "retry", "now")),
        (tollway.Retry(float("inf"), "never"), RetryAt(RETRY_MAX_S, "retry", "never")),
        (ValueError("odd\x00"), RetryAt(1.0, "ValueError", "odd?")),
        (LlmError("rate_limited", "slow down", retry_after_s=3.0), RetryAt(3.0, "rate_limited", "slow down")),
        (LlmError("provider_5xx", "broken"), RetryAt(1.0, "provider_5xx", "broken")),
        (Fenced("7"), Abandoned()),
    ],
)
async def test_what_the_agent_raises_decides(agents: Registry, error: Exception, expected: Outcome) -> None:
    """Rejections are final, everything else is another attempt, in the time it asks for or by backoff."""
    raising(error)
    assert await outcome_of(agents) == expected


@pytest.mark.parametrize("error", [ValueError("odd"), tollway.Retry(1.0), LlmError("provider_5xx", "broken")])
async def test_the_last_attempt_ends_dead(agents: Registry, error: Exception) -> None:
    """Errors count against max_attempts; lost workers do not."""
    raising(error)
    assert isinstance(await outcome_of(agents, errors=1, lost=1), RetryAt)
    assert isinstance(await outcome_of(agents, errors=2), Dead)
    assert isinstance(await outcome_of(agents, max_attempts=1), Dead)


async def test_backoff_grows_with_the_errors(agents: Registry) -> None:
    """The third attempt waits longer than the second."""
    raising(ValueError("odd"))
    delays = [await outcome_of(agents, errors=errors, max_attempts=9) for errors in range(4)]
    assert [found.delay_s for found in delays if isinstance(found, RetryAt)] == [1, 2, 4, 8]


async def test_a_long_message_is_shortened(agents: Registry) -> None:
    """What an exception says is bounded."""
    raising(ValueError("x" * 10_000))
    found = await outcome_of(agents)
    assert isinstance(found, RetryAt)
    assert len(found.message) == 2000


async def test_the_place_is_the_agents_own(agents: Registry) -> None:
    """Dead letters are grouped by the agent's line of code, not by that of a library or of Tollway."""

    @tollway.agent
    async def agent(run: tollway.Run) -> None:
        await run.gather(helper())

    async def helper() -> None:
        raise ValueError

    execution = make_execution(agents)
    await execution.run()
    assert execution.place == "test_executor.py:helper:raise ValueError"


async def test_an_attempt_has_its_time(agents: Registry) -> None:
    """Beyond `timeout` the agent is cancelled, which counts as an error."""
    cleaned: list[bool] = []

    @tollway.agent(timeout=0.05)
    async def agent(run: tollway.Run) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    found = await outcome_of(agents)
    assert isinstance(found, RetryAt)
    assert (found.code, cleaned) == ("timeout", [True])
    assert isinstance(await outcome_of(agents, errors=2), Dead)


async def test_a_deadline_expires_a_run(agents: Registry) -> None:
    """A deadline that has passed, or passes while the agent runs, ends it as expired whatever attempts are left."""
    clock = StillClock()

    @tollway.agent
    async def agent(run: tollway.Run) -> None:
        clock.at = NOW + 10
        await asyncio.sleep(60)

    assert await outcome_of(agents, deadline_at=datetime.fromtimestamp(NOW, UTC)) == Expired()
    soon = datetime.fromtimestamp(NOW + 0.05, UTC)
    async with asyncio.timeout(20):
        assert await make_execution(agents, clock, deadline_at=soon).run() == Expired()


async def test_an_agent_that_cancels_itself_is_tried_again(agents: Registry) -> None:
    """A cancellation nobody asked for is an error of the attempt."""
    raising(asyncio.CancelledError())
    found = await outcome_of(agents)
    assert isinstance(found, RetryAt)
    assert found.code == "cancelled_itself"


@pytest.mark.parametrize("how", [Cancelled("key", "k"), HandedBack(), Abandoned()])
@pytest.mark.parametrize("manner", ["lets go", "returns", "raises", "swallows"])
async def test_who_is_stopped_ends_as_told(
    how: Outcome, manner: str, agents: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the agent does with its cancellation, that outcome stands; one that swallows it is left behind."""
    monkeypatch.setattr(executor_module, "STOP_PATIENCE_S", 0.05)
    began, release = asyncio.Event(), asyncio.Event()

    @tollway.agent
    async def agent(run: tollway.Run) -> str:
        began.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                if manner == "lets go":
                    raise
                if manner == "raises":
                    raise ValueError("while stopping") from None
                if manner == "returns":
                    break
        return "late"

    execution = make_execution(agents)
    running = asyncio.create_task(execution.run())
    await began.wait()
    execution.stop(how)
    execution.stop(Expired())  # a second stop is nothing
    async with asyncio.timeout(20):
        assert await running == how
    assert execution.journal.hands_off == isinstance(how, HandedBack | Abandoned)
    release.set()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await asyncio.gather(*left, return_exceptions=True)


async def test_a_stop_before_the_start_needs_no_agent(agents: Registry) -> None:
    """A run that is cancelled before its first step never calls the agent."""

    @tollway.agent
    async def agent(run: tollway.Run) -> None:
        raise AssertionError("never called")

    execution = make_execution(agents)
    execution.stop(Cancelled("key", "k"))
    assert await execution.run() == Cancelled("key", "k")


class Stream:
    """Something the agent left open."""

    def __init__(self) -> None:
        self.closed = False

    async def aclose(self) -> None:
        """Close it, with a fault that must not matter."""
        self.closed = True
        raise ValueError


async def test_open_streams_are_closed(agents: Registry) -> None:
    """What the agent left open is closed at its end, and a fault in that changes nothing."""
    stream = Stream()

    @tollway.agent
    async def agent(run: Any) -> int:
        run._journal.open_streams.append(stream)
        return 1

    assert await outcome_of(agents) == Succeeded(b"1")
    assert stream.closed
