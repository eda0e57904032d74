"""The books of an `llm` step: each of its calls an intent and an outcome in the run's journal, with its money."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tollway.domain.budgets import Rung, Stood
from tollway.domain.errors import LlmError
from tollway.domain.ids import IdMaker
from tollway.domain.llm import ToolCall, Usage
from tollway.domain.texts import storable
from tollway.llm.calls import CallResult, Plan
from tollway.record.writes import NO_SAVING, Entry, Reservation, Saving, StepOutcome
from tollway.runtime.adapters import adapter_of
from tollway.runtime.journal import RunJournal
from tollway.runtime.journal_steps import Step
from tollway.telemetry.metrics import Metrics

_NOTHING = Usage()
_MESSAGE_MAX = 2000
_encode = msgspec.json.encode


class Recorded(msgspec.Struct, frozen=True, omit_defaults=True):
    """An `llm` step's result as the journal keeps it; of a call over the wire also what its client was told."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    cost_nano: int
    route: str
    model: str
    stop_reason: str
    cached: str = ""
    degraded: tuple[str, ...] = ()
    reasoning: str = ""
    vectors: tuple[tuple[float, ...], ...] = ()
    body: bytes = b""
    form: str = ""


decode_recorded = msgspec.json.Decoder(Recorded).decode


def reservation(plan: Plan) -> Reservation:
    """What a planned call reserves, and for what."""
    return Reservation(plan.reserve_nano, plan.route, plan.tier, plan.asked, plan.model, plan.price.version)


def saving_of(result: CallResult) -> Saving:
    """What a call that was made did not cost."""
    prompt, shift = result.saved_prompt_nano, result.saved_shift_nano
    if not (prompt or shift):
        return NO_SAVING
    return Saving(prompt_nano=prompt or None, shift_nano=shift or None)


class StepBooks:
    """Implements `llm.books.Books` for one step. `tier` is what it asks, `returns` the type that its
    answer must fit, None for any text.

    After a call that came back, `recorded` is what the journal has of it. A step within which its run may go on is
    `firm`: others of the run do not wait for its money.
    """

    __slots__ = (
        "_ids", "_journal", "_metrics", "_n", "_returns", "_step", "_stood", "_tier", "_untold", "firm", "recorded",
    )  # fmt: skip

    def __init__(
        self, journal: RunJournal, step: Step, tier: str, returns: Any, ids: IdMaker, metrics: Metrics
    ) -> None:
        self._journal = journal
        self._step = step
        self._tier = tier
        self._returns = returns
        self._ids = ids
        self._metrics = metrics
        self._n: int | None = None
        self._stood: set[Stood] = set()
        self._untold: list[Stood] = []
        self.recorded: Recorded | None = None
        self.firm = False

    async def intend(self, plan: Plan) -> UUID:
        """Reserve the worst case in all budgets that cover it, and write the intent. Raises LlmError, Fenced."""
        journal = self._journal
        journal.first_tier = journal.first_tier or self._tier
        await journal.purse.reserve(plan.reserve_nano, firm=self.firm)
        call_id = self._ids.new()
        try:
            await self._intend(call_id, reservation(plan))
        except BaseException:
            journal.purse.give_back(plan.reserve_nano, firm=self.firm)
            raise
        if plan.instead_of is not None:
            self._tell_fallback(plan, *plan.instead_of)
        return call_id

    def settle(self, plan: Plan, call_id: UUID, result: CallResult) -> None:
        """Write the outcome of a call that came back whole. Raises LlmError `invalid_answer`."""
        self._journal.purse.give_back(plan.reserve_nano, firm=self.firm)
        misfit = self._misfit(result.completion.text)
        if misfit is not None:
            self._outcome(call_id, plan, result, None, misfit)
            raise LlmError("invalid_answer", misfit, route=result.route)
        self._outcome(call_id, plan, result, self._record(result), None)

    def fail(self, plan: Plan, call_id: UUID, error: LlmError | None) -> None:
        """A call that failed. Its charge is known, or may be anything up to its worst case, or surely none.

        `error` None is a call cut off by us or by a fault of ours: the vendor may finish and charge it. A run that is
        being handed back leaves its intent as it stands.
        """
        journal = self._journal
        journal.purse.give_back(plan.reserve_nano, firm=self.firm)
        if journal.fenced is not None or (error is None and journal.hands_off):
            return
        usage = (error.usage if error is not None else None) or _NOTHING
        kind, nano, cost_nano = "unknown", plan.reserve_nano, 0
        if error is not None and error.cost_nano is not None:
            kind, nano, cost_nano = "settle", error.cost_nano, error.cost_nano
        elif error is not None and not error.billed:
            kind, nano = "release", 0
        at = journal.moment()
        self._metrics.steps.add("llm", "failed")
        message = storable("cancelled" if error is None else f"{error.code}: {error}", _MESSAGE_MAX)
        n = self._number()
        journal.settle(
            StepOutcome(n, "failed", at, None, message, plan.route, 1, usage, cost_nano),
            self._entries(call_id, kind, plan, nano, usage, at),
        )

    def stand_on(self, stood: Sequence[Stood], *, refused: bool = False) -> Sequence[Stood]:
        """Rungs go into the run, and an event of each follows the step's intent; at once where there will be none.

        Of `alert`, which changes nothing, the run has one event.
        """
        new = [one for one in stood if one not in self._stood]
        if new:
            self._stood.update(new)
            known = self._journal.degraded
            self._untold += [one for one in new if one.rung is not Rung.ALERT or Rung.ALERT.value not in known]
            self._journal.stood_on([one.rung.value for one in new])
            if refused:
                self._tell_rungs()
        return new

    async def hit(self, result: CallResult) -> None:
        """The step is done without a call: intended and done all the same, so that a replay finds it. Raises Fenced."""
        misfit = self._misfit(result.completion.text)
        if misfit is not None:
            raise LlmError("invalid_answer", misfit, route=result.route)
        reserved, call_id = Reservation(0, result.route, result.tier or None, self._tier, result.model), self._ids.new()
        await self._intend(call_id, reserved)
        self._metrics.steps.add("llm", "done")
        at, answer = self._journal.moment(), self._record(result)
        self._journal.settle(
            StepOutcome(
                self._number(),
                "done",
                at,
                answer,
                None,
                result.route,
                0,
                _NOTHING,
                0,
                cached=True,
                saved_nano=result.saved_nano,
            ),
            [
                Entry(
                    call_id,
                    "saved",
                    self._number(),
                    self._step.name,
                    reserved,
                    0,
                    _NOTHING,
                    at,
                    Saving(result.cached, result.saved_nano),
                )
            ],
        )

    async def _intend(self, call_id: UUID, reserved: Reservation) -> None:
        journal = self._journal
        if self._n is not None:
            await journal.make_room(self._n)
        hold = await journal.holds.reserve(reserved.nano)
        try:  # nothing is awaited from here on, so that who waits for all intents of old budgets misses none
            if self._n is None:
                self._n, durable = journal.intend(self._step, call_id, reserved, hold)
            else:
                durable = journal.intend_again(self._n, self._step, call_id, reserved, hold)
        except BaseException:
            journal.holds.drop(hold)
            raise
        self._tell_rungs()
        await journal.begin(self._n, durable)

    def _number(self) -> int:
        assert self._n is not None, "what was not intended has no outcome"
        return self._n

    def _misfit(self, text: str) -> str | None:
        """Why the answer does not fit what the agent asked for; None if it does."""
        if self._returns is None:
            return None
        try:
            adapter_of(self._returns).validate_json(text)
        except Exception as error:  # a type's own validator may raise anything
            return storable(f"the model's answer does not fit: {error}", _MESSAGE_MAX)
        return None

    def _record(self, result: CallResult) -> bytes:
        completion = result.completion
        self.recorded = Recorded(
            completion.text,
            completion.tool_calls,
            completion.usage,
            result.cost_nano,
            result.route,
            completion.model,
            completion.stop_reason,
            result.cached,
            result.degraded,
            completion.reasoning if completion.form else "",
            () if completion.body else completion.vectors,
            completion.body,
            completion.form,
        )
        self._journal.stood_on(result.degraded)
        return _encode(self.recorded)

    def _outcome(self, call_id: UUID, plan: Plan, result: CallResult, answer: bytes | None, misfit: str | None) -> None:
        at, usage, n = self._journal.moment(), result.completion.usage, self._number()
        state = "done" if misfit is None else "failed"
        error = None if misfit is None else storable(f"invalid_answer: {misfit}", _MESSAGE_MAX)
        self._metrics.steps.add("llm", state)
        self._journal.settle(
            StepOutcome(n, state, at, answer, error, result.route, 1, usage, result.cost_nano),
            self._entries(call_id, "settle", plan, result.cost_nano, usage, at, saving_of(result)),
        )

    def _entries(
        self,
        call_id: UUID,
        kind: str,
        plan: Plan,
        nano: int,
        usage: Usage,
        at: datetime,
        saving: Saving = NO_SAVING,
    ) -> list[Entry]:
        """The entry of a call's money; two where it cost more than was reserved for it."""
        n, name, reserved = self._number(), self._step.name, reservation(plan)
        within = min(nano, plan.reserve_nano)
        entries = [Entry(call_id, kind, n, name, reserved, within, usage, at, saving)]
        if nano > within:
            self._metrics.llm_adjusted_nano.add(plan.route, by=nano - within)
            entries.append(Entry(call_id, "adjust", n, name, reserved, nano - within, _NOTHING, at))
        return entries

    def _tell_rungs(self) -> None:
        """One event a rung; a step that was refused before it began has a path, and no number yet."""
        untold, self._untold = self._untold, []
        for one in untold:
            place: dict[str, Any] = {"path": self._step.path} if self._n is None else {"n": self._n}
            data = {"rung": one.rung, **place, "budget": one.budget}
            self._journal.tell("degraded", _encode(data).decode())

    def _tell_fallback(self, plan: Plan, route: str, code: str) -> None:
        data = {"rung": "fallback", "n": self._number(), "from": route, "to": plan.route, "code": code}
        self._journal.tell("degraded", _encode(data).decode())
