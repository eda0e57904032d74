"""What becomes of a framework's stream that is left early, by how its run goes on."""

from typing import Any

import pytest

import tollway
from executor_kit import make_execution
from tollway.domain.llm import Completion, Usage
from tollway.domain.outcomes import Cancelled, HandedBack, Outcome, Parked, RetryAt
from tollway.llm.calls import CallResult
from tollway.runtime.registry import Registry
from tollway.runtime.wire import StepAccount

HALF = CallResult(Completion("half", (), Usage(1, 1, estimated=True), "stop", "m"), 1, "a", "p", "m", 0.1)


class Noted:
    """Books that note what they hear."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def settle(self, plan: Any, call_id: Any, result: Any) -> None:
        """Note it."""
        self.told.append("settle")

    def fail(self, plan: Any, call_id: Any, error: Any) -> None:
        """Note it."""
        self.told.append("fail")


@pytest.mark.parametrize(
    ("stopped", "told"),
    [
        (None, "settle"),
        (Cancelled("key", "k"), "settle"),
        (HandedBack(), "fail"),
        (Parked(1.0, "no_capacity", ""), "fail"),
        (RetryAt(1.0, "timeout", ""), "fail"),
    ],
)
async def test_half_a_stream_is_kept_only_by_a_run_that_does_not_come_back(
    stopped: Outcome | None, told: str, agents: Registry
) -> None:
    """What a framework left is its answer; what the end of an attempt cut off is none for the next one."""

    @tollway.agent
    async def agent(run: tollway.Run) -> None:
        """Nothing."""

    nothing: Any = None
    books: Any = Noted()
    execution = make_execution(agents)
    if stopped is not None:
        execution.stop(stopped)
    account = StepAccount(execution.journal, books, None, lambda _: None)
    account.streams(lambda: HALF)
    account.fail(nothing, nothing, None)
    assert books.told == [told]
