"""The journal of a running run: steps numbered when called, intents before the deed, outcomes after it.

A run has one writer, so its event numbers are made here. At most one write of a run is on its way at a time; what
gathers meanwhile goes with the next; an outcome rides with the next intent or the run's end when these come at once.

Numbering: a step's path is its place among the calls of its scope (`2`), and a branch of `gather` opens a scope of its
own (`3.1.` for the first branch of the gather that was call 3), so that parallel branches number alike in every replay.
Calls over the wire come in any order, so they are found by what they ask (`wire:9f8e7d6c5b4a.1`: first of its kind).
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tollway.domain.clock import Clock
from tollway.domain.errors import Fenced, JournalMismatch, LlmError
from tollway.domain.gates import Gate
from tollway.domain.outcomes import Parked
from tollway.domain.words import StepKind
from tollway.record.claims import Claim
from tollway.record.writes import (
    NOTHING_RESERVED,
    Ending,
    Entry,
    Fact,
    Intent,
    Leaving,
    Reservation,
    RunWrite,
    StepOutcome,
)
from tollway.runtime.journal_steps import (
    Closable,
    OpenStep,
    Step,
    cut_short,
    entry_of,
    found_open,
    intent_data,
    moves,
    outcome_data,
    task_type_of,
)
from tollway.runtime.journal_writer import JournalWriter
from tollway.runtime.parking import park_s, parked_by
from tollway.runtime.run_holds import RunHolds
from tollway.runtime.run_purse import RunPurse
from tollway.runtime.scope import ForeignTask, scope_now
from tollway.spend.budgets import NOTHING_HELD, Hold


class RunJournal:
    """One claim's journal. After `Fenced` nothing more is written, and every call raises it.

    `task_type` is its metadata's; `version` that of the code at work, as `name@version`: what is cached is kept apart
    by it.

    `hands_off` says that the run is being handed back: steps under way stay intents, and their policy decides later.
    `comes_back` says that, or that the attempt was stopped to be made again: half an answer is none then.
    `timed_out_s` is how long the attempt had, once that is over; `first_tier` whose capacity the run needed first;
    `holds` are what its calls hold in budgets.
    """

    def __init__(
        self, claim: Claim, recorded: Sequence[Any], writer: JournalWriter, clock: Clock, actor_id: str
    ) -> None:
        self.claim = claim
        self.fenced: Fenced | None = None
        self.mismatch: JournalMismatch | None = None
        self.hands_off = False
        self.comes_back = False
        self.first_tier: str | None = None
        self.timed_out_s: float | None = None
        self.on_park: Callable[[Parked], None] | None = None
        self.degraded: list[str] = []
        self.version = f"{claim.agent}@{claim.version}"
        self.task_type = task_type_of(claim)
        self.holds = RunHolds(writer.budgets, claim, self.task_type)
        self.open_streams: list[Closable] = []
        self.purse = RunPurse(claim.budget_nano)
        self.spent_nano = 0
        self._recorded: dict[str, Any] = {}
        self._open_steps: dict[int, OpenStep] = {}
        self._alike: dict[str, int] = {}
        self._last_n = 0
        for row in recorded:
            n = row["n"]
            self.spent_nano += row["cost_nano"]
            self.purse.spend(row["cost_nano"])
            self._recorded[row["path"]] = row
            self._last_n = max(self._last_n, n)
            if row["state"] == "intent":
                found = self._open_steps[n] = found_open(row)
                self.purse.spend(found.reserved.nano)
        self._writer = writer
        self._clock = clock
        self._actor_id = actor_id
        self._next_seq = claim.next_seq
        self._pending: RunWrite | None = None
        self._flying: RunWrite | None = None
        self._queued = False
        self._closed = False
        self._pending_acks: list[asyncio.Future[bool]] = []
        self._flying_acks: list[asyncio.Future[bool]] = []

    def moment(self) -> datetime:
        """Now, as the database sees it."""
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def call(self, kind: str, name: str) -> Step:
        """Number a step that the code calls now. Raises JournalMismatch, ForeignTask, Fenced, ValueError."""
        scope = scope_now.get()
        if scope is None or scope.owner is not asyncio.current_task():
            raise ForeignTask(name)
        if self.fenced is not None:
            raise self.fenced
        if not name.isprintable():
            raise ValueError(f"a step's name must be printable, not {name!r}")
        scope.count += 1
        path = f"{scope.prefix}{scope.count}"
        recorded = self._recorded.get(path)
        if recorded is not None and (recorded["kind"] != kind or recorded["name"] != name):
            self.mismatch = JournalMismatch(path, f"{recorded['kind']} {recorded['name']!r}", f"{kind} {name!r}")
            raise self.mismatch
        return Step(path, kind, name, recorded)

    def call_like(self, digest: str, name: str) -> Step:
        """Find a step by what it asks, whoever calls it: the next of those that ask the same. Raises Fenced."""
        if self.fenced is not None:
            raise self.fenced
        self._alike[digest] = self._alike.get(digest, 0) + 1
        path = f"wire:{digest}.{self._alike[digest]}"
        return Step(path, StepKind.LLM, name, self._recorded.get(path))

    def intend(
        self, step: Step, call_id: UUID, reserved: Reservation = NOTHING_RESERVED, hold: Hold = NOTHING_HELD
    ) -> "tuple[int, asyncio.Future[bool]]":
        """Write the intent of a step. Returns its number and the future of its durability (which may raise Fenced)."""
        write = self._open()
        at = self.moment()
        if step.recorded is None:
            self._last_n += 1
            n = self._last_n
            write.new_steps += 1
        else:
            n = step.recorded["n"]
            if n in self._open_steps:
                self._note_unknown(write, self._open_steps[n], at)
        self.holds.intended(write, call_id, hold)
        return n, self._intend(write, n, step, call_id, reserved, at)

    async def make_room(self, n: int) -> None:
        """Wait until a step has no outcome or intent unwritten: an intent cannot share its write. Raises Fenced.

        One whose caller was cancelled before the deed has an outcome as soon as its intent is written.
        """
        while moves(self._pending, n) or (moves(self._flying, n) and n in self._open_steps):
            await self._kick_with_ack()

    def intend_again(
        self, n: int, step: Step, call_id: UUID, reserved: Reservation, hold: Hold = NOTHING_HELD
    ) -> "asyncio.Future[bool]":
        """Write the intent of a further call of a step whose last is over; `make_room` first. Raises Fenced."""
        write = self._open()
        left = self._open_steps.get(n)
        if left is not None:  # its caller was cancelled before the deed
            self.holds.ended(write, left.call_id)
            if left.paid:
                write.entries.append(entry_of(left, "release", 0, self.moment()))
        self.holds.intended(write, call_id, hold)
        return self._intend(write, n, step, call_id, reserved, self.moment())

    def _intend(
        self, write: RunWrite, n: int, step: Step, call_id: UUID, reserved: Reservation, at: datetime
    ) -> "asyncio.Future[bool]":
        self._open_steps[n] = OpenStep(n, step.kind, step.name, call_id, reserved, begun=False)
        attempt = self.claim.attempt
        write.intents.append(Intent(n, step.path, step.kind, step.name, attempt, call_id, reserved, at))
        self._tell(write, "step.intent", intent_data(n, step, call_id), at)
        return self._kick_with_ack()

    async def begin(self, n: int, durable: "asyncio.Future[bool]") -> None:
        """Wait until its intent is durable; then the deed begins, and only its outcome can tell what became of it."""
        step = self._open_steps[n]
        try:
            await durable
        except asyncio.CancelledError:
            step.left = True
            self._end_left(n, step.call_id)
            raise
        step.begun = True

    async def stand_by(self, error: LlmError) -> None:
        """No capacity for a step, or no money: as `stand_aside`, behind the gate of its tier or of its budget."""
        if error.exhausted is None:
            self.first_tier = self.first_tier or error.tier
        await self.stand_aside(parked_by(error, self._clock.now()))

    async def stand_aside(self, parked: Parked) -> None:
        """A step cannot be done now: the run parks until it may be, unless other calls of it are under way.

        Returns after a moment in that case, to be asked again; else never, for the attempt ends.
        """
        wait_s = park_s(parked)
        if self.on_park is None or any(not (step.found or step.left) for step in self._open_steps.values()):
            await asyncio.sleep(min(wait_s, 1.0))
            return
        self.on_park(replace(parked, delay_s=wait_s))
        await asyncio.Future()

    def stood_on(self, rungs: Sequence[str]) -> None:
        """Remember the rungs of degradation that an answer of this run stood on."""
        for rung in rungs:
            if rung not in self.degraded:
                self.degraded.append(rung)

    def give_up_unknown(self, step: Step) -> None:
        """Record that a step cut between intent and outcome will not be repeated, by its policy."""
        open_step = self._open_steps.pop(step.recorded["n"], None)
        if open_step is not None:
            self._end_unknown(self._open(), open_step, self.moment())
            self._kick()

    def settle(self, outcome: StepOutcome, entries: Sequence[Entry]) -> None:
        """Write a step's outcome and its money; durable with the run's next write, awaited by nobody."""
        write = self._open()
        step = self._open_steps.pop(outcome.n, None)
        if step is not None:
            self.holds.ended(write, step.call_id, entries)
        write.outcomes.append(outcome)
        write.entries.extend(entries)
        self.spent_nano += outcome.cost_nano
        self.purse.spend(sum(entry.nano for entry in entries))
        self._tell_outcome(write, outcome)
        self._kick()

    def _tell_outcome(self, write: RunWrite, outcome: StepOutcome) -> None:
        self._tell(write, f"step.{outcome.state}", outcome_data(outcome), outcome.ended_at)

    def tell(self, kind: str, data: str | None, actor_kind: str = "worker") -> None:
        """Write an event of the run."""
        self._tell(self._open(), kind, data, self.moment(), actor_kind)
        self._kick()

    async def end(self, final: Fact, ending: dict[str, Any]) -> None:
        """End the run with all that is still unwritten. Raises Fenced."""
        write = await self._close()
        write.facts.append(final)
        await self._writer.endings.put(Ending(write=write, ended_at=final.at, degraded=tuple(self.degraded), **ending))
        self.holds.landed(write)

    async def leave(
        self, kind: str, data: str | None, delay_s: float | None, errors: int, gate: str = Gate.TIME
    ) -> None:
        """Give the run back to the queue, behind a gate if there is a delay. Raises Fenced."""
        await self._flush()
        self._end_open_steps(begun=False)
        await self._flush()
        self._closed = True
        claim = self.claim
        await self._writer.leavings.put(
            Leaving(claim.run_id, claim.fence, self._next_seq, delay_s, errors, kind, data, gate=gate)
        )

    def fact(self, kind: str, data: str | None, actor_kind: str = "worker", actor_id: str | None = None) -> Fact:
        """An event of now, to be handed to `end`."""
        return Fact(kind, self.moment(), actor_kind, actor_id or self._actor_id, data)

    def take(self) -> RunWrite | None:
        """What is to be written now; the same again while it is on its way. For the writer."""
        self._queued = False
        if self._flying is None:
            self._flying, self._pending = self._pending, None
            self._flying_acks, self._pending_acks = self._pending_acks, []
        return self._flying

    async def _flush(self) -> None:
        while self._pending is not None or self._flying is not None:
            await self._kick_with_ack()

    async def _close(self) -> RunWrite:
        while self._flying is not None or (self._pending is not None and self._pending.intents):
            await self._kick_with_ack()  # an outcome cannot share a write with its own intent
        self._end_open_steps(begun=True)
        write = self._open()
        self._pending = None
        self._closed = True
        for ack in self._pending_acks:  # only tasks that outlived their run still wait for these
            ack.cancel()
        return write

    def _open(self) -> RunWrite:
        if self.fenced is not None:
            raise self.fenced
        if self._closed:
            raise Fenced(self.claim.run_id)
        if self._pending is None:
            claim = self.claim
            self._pending = RunWrite(
                claim.run_id, claim.tenant, claim.fence, self._next_seq, claim.key_id, self.task_type or None
            )
        return self._pending

    def _tell(self, write: RunWrite, kind: str, data: str | None, at: datetime, actor_kind: str = "worker") -> None:
        write.facts.append(Fact(kind, at, actor_kind, self._actor_id, data))
        self._next_seq += 1

    def _end_open_steps(self, *, begun: bool) -> None:
        """Leave no intent behind: what was not begun surely cost nothing, what was begun (if asked for) is unknown."""
        for step in [step for step in self._open_steps.values() if begun or not step.begun]:
            if step.begun:
                write = self._open()
                del self._open_steps[step.n]
                self._end_unknown(write, step, self.moment())
            else:
                self._end_unbegun(step)

    def _end_left(self, n: int, call_id: UUID) -> None:
        """A call that nobody works on holds no money though its run goes on: an outcome follows, in a write of its own.

        A run that is handed back gives it one anyway.
        """
        step = self._open_steps.get(n)
        unwritten = moves(self._pending, n) or moves(self._flying, n)
        over = self.fenced is not None or self._closed or self.hands_off
        if step is not None and step.call_id == call_id and step.left and not (unwritten or over):
            self._end_unbegun(step)
            self._kick()

    def _end_unbegun(self, step: OpenStep) -> None:
        write, at = self._open(), self.moment()
        del self._open_steps[step.n]
        outcome = cut_short(step, "failed", at, "stopped before it began")
        write.outcomes.append(outcome)
        self.holds.ended(write, step.call_id)
        if step.paid:
            write.entries.append(entry_of(step, "release", 0, at))
        self._tell_outcome(write, outcome)

    def _end_unknown(self, write: RunWrite, step: OpenStep, at: datetime) -> None:
        self._note_unknown(write, step, at)
        write.outcomes.append(cut_short(step, "unknown", at, "cut between intent and outcome"))

    def _note_unknown(self, write: RunWrite, step: OpenStep, at: datetime) -> None:
        """A call whose outcome nobody saw: its reservation stands in the ledger as what it may have cost at most."""
        data = f'{{"n":{step.n},"call_id":"{step.call_id}","reserved_nano":{step.reserved.nano}}}'
        self._tell(write, "step.unknown", data, at)
        entry = entry_of(step, "unknown", step.reserved.nano, at)
        if not step.found:  # else it is spent since the claim began
            self.purse.spend(step.reserved.nano)
        self.holds.ended(write, step.call_id, [entry])
        if step.paid:
            write.entries.append(entry)

    def _ack(self, acks: "list[asyncio.Future[bool]]") -> "asyncio.Future[bool]":
        """A waiter of its own: a task that is cancelled takes no other's with it."""
        ack: asyncio.Future[bool] = self._writer.loop.create_future()
        acks.append(ack)
        return ack

    def _kick_with_ack(self) -> "asyncio.Future[bool]":
        if self._pending is None:
            return self._ack(self._flying_acks)
        ack = self._ack(self._pending_acks)
        self._kick()
        return ack

    def _kick(self) -> None:
        if not self._queued and self._flying is None:
            self._queued = True
            self._writer.writes.put(self).add_done_callback(self._landed)

    def _landed(self, future: "asyncio.Future[bool]") -> None:
        error = None if future.cancelled() else future.exception()
        acks, self._flying_acks = self._flying_acks, []
        landed, self._flying = self._flying, None
        if error is None:
            self.holds.landed(landed)
            for intent in () if landed is None else landed.intents:
                self._end_left(intent.n, intent.call_id)
        else:
            self.holds.let_go(landed, self._pending)
            self.fenced = error if isinstance(error, Fenced) else Fenced(self.claim.run_id)
            acks += self._pending_acks
            self._pending, self._pending_acks = None, []
        for ack in acks:
            if not ack.done():
                if error is None:
                    ack.set_result(True)
                else:
                    ack.set_exception(self.fenced or error)
        if self._pending is not None and not self._closed:
            self._kick()
