"""Steps of kind `task`: any function, journaled: intended, done once, its outcome settled.

Where it names a dependency whose breaker is open, the run parks, or the task is skipped; a skip is a step like any
other, done without a result, so that a replay skips it too.

A declared cost is money as that of a call to a model: see `task_books`.

With a time to live the result is cached too, for every run of the same tenant and agent version: a hit is a step like
any other, intended and settled, but the function is not run.
"""

import asyncio
import inspect
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from tollway.domain.budgets import Rung, Stood
from tollway.domain.errors import LlmError, StepUnknown
from tollway.domain.ids import IdMaker
from tollway.domain.llm import Caller, Usage
from tollway.domain.texts import storable
from tollway.llm.cache.answers import KeptResult
from tollway.llm.cache.exact import FLIGHT, HIT, SHARED_HIT, ExactCache
from tollway.llm.cache.fingerprint import task_fingerprint
from tollway.record.writes import StepOutcome
from tollway.runtime.dependencies import AGAIN_S, Dependencies, Passage, checked_dependency, parked
from tollway.runtime.journal import RunJournal
from tollway.runtime.journal_steps import Step
from tollway.runtime.task_books import TaskBooks
from tollway.spend.budgets import SOUND
from tollway.spend.refusals import barred, behind
from tollway.telemetry.metrics import Metrics

_NOTHING = Usage()
_MESSAGE_MAX = 2000
_NEAR_S = 1.0
_LOOK_S = 0.1
_HOW = {HIT: "exact", SHARED_HIT: "exact", FLIGHT: "flight"}

SKIPPED = "skipped"
"""The rung of a run that went on without an optional task; with its dependency, the `error` of the step."""

_encode = msgspec.json.encode


class Task(msgspec.Struct, frozen=True):
    """A function to journal, as the agent named it. `on_unknown` is `retry` or `fail`; `cache_ttl` is in seconds.

    While the breaker of `dependency` is open, an `optional` one is skipped. `cost_nano` is what each call of it costs.
    """

    name: str
    fn: Callable[..., Any]
    args: Sequence[Any]
    on_unknown: str = "retry"
    cache_ttl: float | None = None
    dependency: str | None = None
    optional: bool = False
    cost_nano: int = 0

    async def call(self, passage: Passage | None = None) -> bytes:
        """Call it, in the loop if it is async and else in a thread; what it returned, as JSON.

        Its passage hears of the function alone: that a result is no JSON is not the dependency's doing.
        """
        if passage is not None:
            passage.begins()
        try:
            if inspect.iscoroutinefunction(self.fn):
                value = await self.fn(*self.args)
            else:
                value = await asyncio.to_thread(self.fn, *self.args)
            value = await value if inspect.isawaitable(value) else value
        except Exception as error:
            if passage is not None:
                passage.failed(error)
            raise
        if passage is not None:
            passage.served()
        return _encode(value)


class _Place(msgspec.Struct, frozen=True):
    """Where a task's result is cached: under a key, for whom, for how many seconds."""

    key: bytes
    caller: Caller
    ttl_s: float


class TaskSteps:
    """Steps of kind `task`: any function, journaled."""

    def __init__(
        self, ids: IdMaker, metrics: Metrics, cache: ExactCache[KeptResult], dependencies: Dependencies
    ) -> None:
        self._ids = ids
        self._metrics = metrics
        self._cache = cache
        self._dependencies = dependencies

    def do(self, journal: RunJournal, task: Task) -> Coroutine[Any, Any, Any]:
        """Number the step now, and return what does it. Raises ValueError for what makes no sense."""
        if task.on_unknown not in ("retry", "fail"):
            raise ValueError(f'on_unknown must be "retry" or "fail", not {task.on_unknown!r}')
        if task.dependency is not None:
            checked_dependency(task.dependency)
        elif task.optional:
            raise ValueError("an optional task is one that is skipped without its dependency: say dependency= too")
        place = None if task.cache_ttl is None else _place(journal, task, task.cache_ttl)
        return self._do(journal, journal.call("task", task.name), task, place)

    async def _do(self, journal: RunJournal, step: Step, task: Task, place: _Place | None) -> Any:
        recorded = step.recorded
        if recorded is not None and recorded["state"] == "done":
            if recorded["error"] is not None:
                journal.stood_on([recorded["error"]])
            return msgspec.json.decode(recorded["result"])
        if recorded is not None and recorded["state"] in ("intent", "unknown") and task.on_unknown == "fail":
            journal.give_up_unknown(step)
            raise StepUnknown(step.path, step.name)
        passage = None
        if task.dependency is not None:
            goes, passage = await self._enter(journal, task, task.dependency, place)
            if not goes:
                return await self._skip(journal, step, task, task.dependency)
        try:
            return await self._through(journal, step, task, place, passage)
        finally:
            if passage is not None:  # one that had no end so far was cut, or answered by the cache
                passage.cut(journal.timed_out_s)

    async def _through(
        self, journal: RunJournal, step: Step, task: Task, place: _Place | None, passage: Passage | None
    ) -> Any:
        books = TaskBooks(journal, step, self._ids.new(), task.cost_nano)
        kept = await self._kept(place) if place is not None and task.cost_nano else None
        await self._intend(journal, step, books, paid=kept is None and task.cost_nano > 0)
        try:
            result, cached = kept or await self._result(task, place, passage, books)
        except asyncio.CancelledError:
            if not journal.hands_off:
                self._count("failed")
            books.end("failed", None, "cancelled", cut=True)
            raise
        except Exception as error:
            self._count("failed")
            books.end("failed", None, storable(f"{type(error).__name__}: {error}", _MESSAGE_MAX))
            raise
        self._count("done")
        books.end("done", result, None, cached=cached)
        return msgspec.json.decode(result)

    async def _intend(self, journal: RunJournal, step: Step, books: TaskBooks, *, paid: bool) -> None:
        """Write the intent; a run whose budgets have no money for it parks until they have. Raises LlmError, Fenced."""
        told: set[Stood] = set()
        while (refusal := await self._try(journal, books, paid=paid)) is not None:
            rung, error = refusal
            stood = Stood(rung, 0 if error.exhausted is None else error.exhausted.budget)
            if stood.budget and stood not in told:  # the run's own budget, 0, has no rungs
                told.add(stood)
                self._metrics.degraded.add(rung.value)
                journal.stood_on([rung.value])
                data = {"rung": rung, "path": step.path, "budget": stood.budget}
                journal.tell("degraded", _encode(data).decode())
            if not error.parks:
                raise error
            await journal.stand_by(error)

    async def _try(self, journal: RunJournal, books: TaskBooks, *, paid: bool) -> tuple[Rung, LlmError] | None:
        """Intend it, unless a rung of a budget leaves no way to; else the rung that it stands on, and why."""
        standing = await journal.holds.look() if paid else SOUND
        rung = barred(standing)
        if rung is not None:
            return rung, behind(rung, standing.by[rung], journal.moment().timestamp())
        try:
            await books.intend(paid=paid)
        except LlmError as error:
            return (Rung.PARK if error.parks else Rung.REFUSE), error
        return None

    async def _enter(
        self, journal: RunJournal, task: Task, dependency: str, place: _Place | None
    ) -> tuple[bool, Passage | None]:
        """Whether the task is to be done, perhaps after a wait, and the right to call its dependency.

        A result that is cached needs no such right.
        """
        passage = self._dependencies.enter(dependency)
        if passage is not None:
            return True, passage
        if place is not None and await self._find(place) is not None:
            return True, None
        if task.optional:
            return False, None
        return True, await self._wait(journal, dependency)

    async def _wait(self, journal: RunJournal, dependency: str) -> Passage:
        """Wait in the slot while others try the dependency, which takes a moment; else the run parks."""
        near_until = asyncio.get_running_loop().time() + _NEAR_S
        while (passage := self._dependencies.enter(dependency)) is None:
            closed = self._dependencies.closed(dependency)
            if closed is not None:
                await journal.stand_aside(closed)
            elif asyncio.get_running_loop().time() < near_until:
                await asyncio.sleep(_LOOK_S)
            else:
                await journal.stand_aside(parked(dependency, AGAIN_S))
        return passage

    async def _skip(self, journal: RunJournal, step: Step, task: Task, dependency: str) -> None:
        """Go on without it, on record: the next attempt does so too."""
        rung = f"{SKIPPED}:{dependency}"
        n, durable = journal.intend(step, self._ids.new())
        await journal.begin(n, durable)
        journal.stood_on([rung])
        data = {"rung": SKIPPED, "n": n, "dependency": dependency, "task": task.name}
        journal.tell("degraded", _encode(data).decode())
        self._metrics.steps.add("task", SKIPPED)
        at = journal.moment()
        journal.settle(StepOutcome(n, "done", at, b"null", rung, None, 0, _NOTHING, 0), ())

    async def _result(
        self, task: Task, place: _Place | None, passage: Passage | None, books: TaskBooks
    ) -> tuple[bytes, str | None]:
        """What the task returned, now or when it was cached; and how it was, None if it was not."""

        async def make() -> KeptResult:
            books.begins()
            return KeptResult(await task.call(passage))

        if place is None:
            return (await make()).result, None
        found = await self._cache.through(place.key, place.caller, make, place.ttl_s)
        self._metrics.task_cache.add(found.result)
        return found.value.result, _HOW.get(found.result)

    async def _kept(self, place: _Place) -> tuple[bytes, str] | None:
        """A cached result, asked for before money is reserved: it needs none."""
        found = await self._find(place)
        if found is None:
            return None
        value, result = found
        self._metrics.task_cache.add(result)
        return value.result, _HOW[result]

    async def _find(self, place: _Place) -> tuple[KeptResult, str] | None:
        value = self._cache.peek(place.key)
        if value is not None:
            return value, HIT
        value = await self._cache.find(place.key)
        return None if value is None else (value, SHARED_HIT)

    def _count(self, state: str) -> None:
        self._metrics.steps.add("task", state)


def _place(journal: RunJournal, task: Task, ttl_s: float) -> _Place:
    if isinstance(ttl_s, bool) or not 0 < ttl_s < math.inf:
        raise ValueError(f"cache_ttl must be a number of seconds above 0, or None, not {ttl_s!r}")
    claim = journal.claim
    caller = Caller(claim.tenant, claim.lane, claim.agent, journal.version, task.name)
    return _Place(task_fingerprint(caller, task.name, task.args, ttl_s), caller, ttl_s)
