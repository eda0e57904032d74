"""An answer that does not fit is asked for once more, within the time of its step."""

import asyncio
from typing import Any

import pytest

from executor_kit import NoWriter, StillClock, make_claim
from tollway.domain.errors import LlmError
from tollway.domain.ids import IdMaker
from tollway.llm.books import Terms
from tollway.runtime.journal import RunJournal
from tollway.runtime.scope import Scope, scope_now
from tollway.runtime.steps import Ask, LlmDefaults, LlmSteps
from tollway.telemetry.metrics import Metrics


class Unfit:
    """A governor whose answers never fit, and take a moment."""

    def __init__(self) -> None:
        self.terms: list[Terms] = []

    async def complete(self, request: Any, caller: Any, books: Any, terms: Terms) -> Any:
        """No answer that fits."""
        self.terms.append(terms)
        await asyncio.sleep(0.05)
        raise LlmError("invalid_answer", "it does not fit")


@pytest.mark.parametrize(("timeout", "asked"), [(None, 2), (30.0, 2), (0.01, 1)])
async def test_a_repair_has_the_time_that_is_left(timeout: float | None, asked: int) -> None:
    """The timeout of a step is for both of its calls together; when it is over nothing more is asked."""
    writer: Any = NoWriter()
    governor: Any = Unfit()
    clock = StillClock()
    steps = LlmSteps(governor, IdMaker(clock), LlmDefaults(100), Metrics())
    journal = RunJournal(make_claim(), (), writer, clock, "worker-1")
    scope_now.set(Scope(owner=asyncio.current_task()))
    with pytest.raises(LlmError):
        await steps.ask(journal, Ask("llm", "fast", "hello", returns=int, timeout=timeout))
    given = [terms.timeout_s for terms in governor.terms]
    assert len(given) == asked
    assert [terms.cache for terms in governor.terms] == [True, False][:asked]
    if timeout == 30.0:
        assert given[1] <= given[0] - 0.04
