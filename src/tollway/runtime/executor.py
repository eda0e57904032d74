"""Executes one claim: input checked, journal replayed, agent called, and how it ended as a value (domain.outcomes).

Stopping a run from outside goes through `stop(outcome)`: the agent's task is cancelled, and whatever the agent then
does, that outcome stands.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from tollway.domain.clock import Clock
from tollway.domain.errors import Fenced, JournalMismatch, LlmError, Reject, Retry, StepUnknown
from tollway.domain.outcomes import Abandoned, Dead, Expired, Failed, HandedBack, Outcome, Parked, RetryAt, Succeeded
from tollway.domain.texts import storable
from tollway.record.claims import Claim
from tollway.runtime.backoff import retry_delay_s
from tollway.runtime.fingerprints import own_frame, place_of
from tollway.runtime.journal import RunJournal
from tollway.runtime.registry import AgentSpec
from tollway.runtime.run import Run, RunServices
from tollway.runtime.scope import Scope, scope_now
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

RETRY_MAX_S = 366 * 86_400.0
STOP_PATIENCE_S = 5.0
"""How long a cancelled agent may take to let go before its end is written without it."""

_MESSAGE_MAX = 2000


class Execution:
    """One attempt of one run."""

    def __init__(self, spec: AgentSpec, journal: RunJournal, clock: Clock, services: RunServices) -> None:
        self.claim: Claim = journal.claim
        self.spec = spec
        self.journal = journal
        self.place = ""
        self.began_at = clock.monotonic()
        self._clock = clock
        self._services = services
        self._task: asyncio.Task[Any] | None = None
        self._stopped_as: Outcome | None = None
        self._told: asyncio.Future[None] = services.loop.create_future()
        journal.on_park = self.stop
        journal.version = f"{spec.name}@{spec.version}"

    async def run(self) -> Outcome:
        """Call the agent, and tell how it ended. Never raises but for the cancellation of its own task."""
        told = self._told_to_stop()
        if told is not None:
            return told
        left_s = self._seconds_left()
        if left_s is not None and left_s <= 0:
            return Expired()
        try:
            arguments = self._arguments()
        except ValidationError as error:
            return Failed("invalid_input", _shorten(str(error)))
        self._task = self._services.loop.create_task(
            self._call(arguments), name=f"{self.spec.name} {self.claim.run_id}"
        )
        self._task.add_done_callback(self._tell)
        timeout_s = self.spec.timeout_s if left_s is None else min(self.spec.timeout_s, left_s)
        await self._watch(self._task, timeout_s)
        if self._services.wire is not None:
            self._services.wire.close(self.journal)
        outcome = self._told_to_stop() or self._verdict(self._task)
        await self._close_streams(comes_back=self.journal.comes_back or isinstance(outcome, RetryAt))
        self._task = None
        self.journal.on_park = None  # or the two would keep each other alive until the collector looks
        return self._told_to_stop() or outcome

    def stop(self, outcome: Outcome) -> None:
        """End the attempt with this outcome: cancelled, parked, handed back, or given up as lost."""
        if self._stopped_as is None:
            self._stopped_as = outcome
            self.journal.hands_off = isinstance(outcome, HandedBack | Parked | Abandoned)
            self.journal.comes_back = self.journal.hands_off or isinstance(outcome, RetryAt)
            self._tell()
            if self._task is not None:
                self._task.cancel()

    def _told_to_stop(self) -> Outcome | None:
        return self._stopped_as

    def _tell(self, _task: object = None) -> None:
        if not self._told.done():
            self._told.set_result(None)

    async def _call(self, arguments: Sequence[Any]) -> bytes:
        scope = Scope(owner=self._task)
        scope_now.set(scope)
        if self._stopped_as is not None:
            raise asyncio.CancelledError
        try:
            value = await self.spec.function(*arguments)
            return self.spec.output.dump_json(self.spec.output.validate_python(value))
        finally:
            scope.owner = None  # the task's own context leads back to the task: part them, and both are freed at once

    def _arguments(self) -> Sequence[Any]:
        deadline = self.claim.deadline_at
        run = Run(self.journal, self.spec.tier, deadline, self._services)
        if not self.spec.takes_input:
            return (run,)
        return run, self.spec.input.validate_json(self.claim.input)

    def _seconds_left(self) -> float | None:
        deadline: datetime | None = self.claim.deadline_at
        return None if deadline is None else deadline.timestamp() - self._clock.now()

    async def _watch(self, task: "asyncio.Task[Any]", timeout_s: float) -> None:
        """Wait for the agent within its time; one that does not let go when told to is left behind."""
        timer = self._services.loop.call_later(timeout_s, self._time_out, timeout_s)
        try:
            await self._told
            if not task.done():
                await asyncio.wait((task,), timeout=STOP_PATIENCE_S)
        finally:
            timer.cancel()

    def _time_out(self, timeout_s: float) -> None:
        # the deadline was the nearer bound, whatever a clock that was set meanwhile says of it now
        expired = timeout_s < self.spec.timeout_s
        if not expired:
            self.journal.timed_out_s = timeout_s
        self.stop(
            Expired() if expired else self._another_attempt("timeout", f"the attempt took longer than {timeout_s:g} s")
        )

    def _verdict(self, task: "asyncio.Task[Any]") -> Outcome:
        error = None if task.cancelled() else task.exception()
        if self.journal.mismatch is not None:
            return Failed("journal_mismatch", _shorten(str(self.journal.mismatch)))
        if task.cancelled():
            return self._another_attempt("cancelled_itself", "the agent cancelled its own task")
        if error is None:
            return Succeeded(task.result())
        return self._judge(error)

    def _judge(self, error: BaseException) -> Outcome:
        frame = own_frame(error)
        self.place = place_of(frame)
        match error:
            case Fenced():
                return Abandoned()
            case Reject():
                return Failed("rejected", _shorten(error.reason))
            case JournalMismatch() | StepUnknown():
                code = "journal_mismatch" if isinstance(error, JournalMismatch) else "step_unknown"
                return Failed(code, _shorten(str(error)))
            case Retry():
                return self._another_attempt("retry", error.reason, max(0.0, error.after_s))
            case LlmError(code="budget_exhausted", parks=False):
                return Dead(error.code, _shorten(str(error)))  # another attempt finds no money either
            case LlmError():
                return self._another_attempt(error.code, str(error), error.retry_after_s)
            case _:
                return self._unforeseen(error, f"{frame.filename}:{frame.lineno}" if frame else "")

    def _unforeseen(self, error: BaseException, line: str) -> Outcome:
        """An exception the agent's author may not know of: its place is logged, its text only kept with the run."""
        kind, claim = type(error).__name__, self.claim
        log.warning(
            "agent.raised",
            agent=self.spec.name,
            error=kind,
            place=line,
            run_id=str(claim.run_id),
            attempt=claim.attempt,
        )
        return self._another_attempt(kind, str(error) or f"raised without a message at {line}")

    def _another_attempt(self, code: str, message: str, delay_s: float | None = None) -> Outcome:
        message = _shorten(message)
        if self.claim.errors + 1 >= self.claim.max_attempts:
            return Dead(code, message)
        backoff_s = retry_delay_s(self.claim.errors, self._services.random())
        return RetryAt(backoff_s if delay_s is None else min(max(delay_s, 0.0), RETRY_MAX_S), code, message)

    async def _close_streams(self, *, comes_back: bool) -> None:
        """What came of an open stream is its answer, but not in a run that comes back: half a text is none there."""
        for stream in list(self.journal.open_streams):
            with suppress(Exception):
                await (stream.cut() if comes_back else stream.aclose())


def _shorten(text: str) -> str:
    return storable(text, _MESSAGE_MAX)
