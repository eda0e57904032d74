"""Steps of kind `task`: any function, journaled: intended, done once, its outcome settled.

With a time to live the result is cached too, for every run of the same tenant and agent version: a hit is a step like
any other, intended and settled, but the function is not run.
"""

import asyncio
import inspect
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from tollway.domain.errors import StepUnknown
from tollway.domain.ids import IdMaker
from tollway.domain.llm import Caller, Usage
from tollway.domain.texts import storable
from tollway.llm.cache.answers import KeptResult
from tollway.llm.cache.exact import ExactCache
from tollway.llm.cache.fingerprint import task_fingerprint
from tollway.record.journal import StepOutcome
from tollway.runtime.journal import RunJournal, Step
from tollway.telemetry.metrics import Metrics

_NOTHING = Usage()
_MESSAGE_MAX = 2000
_encode = msgspec.json.encode


class Task(msgspec.Struct, frozen=True):
    """A function to journal, as the agent named it. `on_unknown` is `retry` or `fail`; `cache_ttl` is in seconds."""

    name: str
    fn: Callable[..., Any]
    args: Sequence[Any]
    on_unknown: str = "retry"
    cache_ttl: float | None = None

    async def call(self) -> bytes:
        """Call it, in the loop if it is async and else in a thread; what it returned, as JSON."""
        if inspect.iscoroutinefunction(self.fn):
            value = await self.fn(*self.args)
        else:
            value = await asyncio.to_thread(self.fn, *self.args)
        return _encode(await value if inspect.isawaitable(value) else value)


class _Place(msgspec.Struct, frozen=True):
    """Where a task's result is cached: under a key, for whom, for how many seconds."""

    key: bytes
    caller: Caller
    ttl_s: float


class TaskSteps:
    """Steps of kind `task`: any function, journaled."""

    def __init__(self, ids: IdMaker, metrics: Metrics, cache: ExactCache[KeptResult]) -> None:
        self._ids = ids
        self._metrics = metrics
        self._cache = cache

    def do(self, journal: RunJournal, task: Task) -> Coroutine[Any, Any, Any]:
        """Number the step now, and return what does it. Raises ValueError for what makes no sense."""
        if task.on_unknown not in ("retry", "fail"):
            raise ValueError(f'on_unknown must be "retry" or "fail", not {task.on_unknown!r}')
        place = None if task.cache_ttl is None else _place(journal, task, task.cache_ttl)
        return self._do(journal, journal.call("task", task.name), task, place)

    async def _do(self, journal: RunJournal, step: Step, task: Task, place: _Place | None) -> Any:
        recorded = step.recorded
        if recorded is not None and recorded["state"] == "done":
            return msgspec.json.decode(recorded["result"])
        if recorded is not None and recorded["state"] in ("intent", "unknown") and task.on_unknown == "fail":
            journal.give_up_unknown(step)
            raise StepUnknown(step.path, step.name)
        n, durable = journal.intend(step, self._ids.new(), 0, None)
        await journal.begin(n, durable)
        try:
            result, cached = await self._result(task, place)
        except asyncio.CancelledError:
            if not journal.hands_off:
                self._settle(journal, n, "failed", None, "cancelled")
            raise
        except Exception as error:
            self._settle(journal, n, "failed", None, storable(f"{type(error).__name__}: {error}", _MESSAGE_MAX))
            raise
        self._settle(journal, n, "done", result, None, cached=cached)
        return msgspec.json.decode(result)

    async def _result(self, task: Task, place: _Place | None) -> tuple[bytes, bool]:
        """What the task returned, now or when it was cached; and whether it was."""
        if place is None:
            return await task.call(), False

        async def make() -> KeptResult:
            return KeptResult(await task.call())

        found = await self._cache.through(place.key, place.caller, make, place.ttl_s)
        self._metrics.task_cache.add(found.result)
        return found.value.result, found.cached

    def _settle(
        self, journal: RunJournal, n: int, state: str, result: bytes | None, error: str | None, *, cached: bool = False
    ) -> None:
        self._metrics.steps.add("task", state)
        if journal.fenced is None:
            at = journal.moment()
            journal.settle(StepOutcome(n, state, at, result, error, None, 0, _NOTHING, 0, cached=cached), ())


def _place(journal: RunJournal, task: Task, ttl_s: float) -> _Place:
    if isinstance(ttl_s, bool) or not 0 < ttl_s < math.inf:
        raise ValueError(f"cache_ttl must be a number of seconds above 0, or None, not {ttl_s!r}")
    claim = journal.claim
    caller = Caller(claim.tenant, claim.lane, claim.agent, journal.version, task.name)
    return _Place(task_fingerprint(caller, task.name, task.args, ttl_s), caller, ttl_s)
