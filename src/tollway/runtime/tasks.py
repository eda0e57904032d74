"""Steps of kind `task`: any function, journaled: intended, done once, its outcome settled."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from tollway.domain.errors import StepUnknown
from tollway.domain.ids import IdMaker
from tollway.domain.llm import Usage
from tollway.domain.texts import storable
from tollway.record.journal import StepOutcome
from tollway.runtime.journal import RunJournal, Step
from tollway.telemetry.metrics import Metrics

_NOTHING = Usage()
_MESSAGE_MAX = 2000
_encode = msgspec.json.encode


class TaskSteps:
    """Steps of kind `task`: any function, journaled."""

    def __init__(self, ids: IdMaker, metrics: Metrics) -> None:
        self._ids = ids
        self._metrics = metrics

    def do(
        self, journal: RunJournal, name: str, fn: Callable[..., Any], args: Sequence[Any], on_unknown: str
    ) -> Coroutine[Any, Any, Any]:
        """Number the step now, and return what does it."""
        if on_unknown not in ("retry", "fail"):
            raise ValueError(f'on_unknown must be "retry" or "fail", not {on_unknown!r}')
        return self._do(journal, journal.call("task", name), fn, args, on_unknown)

    async def _do(
        self, journal: RunJournal, step: Step, fn: Callable[..., Any], args: Sequence[Any], on_unknown: str
    ) -> Any:
        recorded = step.recorded
        if recorded is not None and recorded["state"] == "done":
            return msgspec.json.decode(recorded["result"])
        if recorded is not None and recorded["state"] in ("intent", "unknown") and on_unknown == "fail":
            journal.give_up_unknown(step)
            raise StepUnknown(step.path, step.name)
        n, durable = journal.intend(step, self._ids.new(), 0, None)
        await durable
        journal.begin(n)
        try:
            value = await fn(*args) if inspect.iscoroutinefunction(fn) else await asyncio.to_thread(fn, *args)
            if inspect.isawaitable(value):
                value = await value
            result = _encode(value)
        except asyncio.CancelledError:
            if not journal.hands_off:
                self._settle(journal, n, "failed", None, "cancelled")
            raise
        except Exception as error:
            self._settle(journal, n, "failed", None, storable(f"{type(error).__name__}: {error}", _MESSAGE_MAX))
            raise
        self._settle(journal, n, "done", result, None)
        return msgspec.json.decode(result)

    def _settle(self, journal: RunJournal, n: int, state: str, result: bytes | None, error: str | None) -> None:
        self._metrics.steps.add("task", state)
        if journal.fenced is None:
            journal.settle(StepOutcome(n, state, journal.moment(), result, error, None, 0, _NOTHING, 0), ())
