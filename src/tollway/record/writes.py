"""What the journal writes: intents, outcomes, money and facts of a run, its end, and its return to the queue."""

from datetime import datetime
from uuid import UUID

import msgspec

from tollway.domain.gates import Gate
from tollway.domain.llm import Usage


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """What a step may cost at most (nano-dollars), and for what: `tier` is the route's, `asked` what was asked for."""

    nano: int = 0
    route: str | None = None
    tier: str | None = None
    asked: str | None = None
    model: str | None = None
    price_version: str | None = None


class Saving(msgspec.Struct, frozen=True, gc=False):
    """What was not spent, in nano-dollars.

    `nano` by an answer given again (`cached` says how), `prompt_nano` by the vendor's prompt cache, `shift_nano` by a
    tier other than the one that was asked for.
    """

    cached: str | None = None
    nano: int | None = None
    prompt_nano: int | None = None
    shift_nano: int | None = None


NOTHING_RESERVED = Reservation()
NO_SAVING = Saving()


class Intent(msgspec.Struct, frozen=True, gc=False):
    """A step about to be done: this row is the reservation of its money."""

    n: int
    path: str
    kind: str
    name: str
    attempt: int
    call_id: UUID
    reserved: Reservation
    started_at: datetime


class StepOutcome(msgspec.Struct, frozen=True, gc=False):
    """How a step ended: `state` done or failed, its result as JSON, what it used and cost.

    `cached` is a result that was given again instead of made; `saved_nano` is what the making would have cost.
    """

    n: int
    state: str
    ended_at: datetime
    result: bytes | None
    error: str | None
    route: str | None
    calls: int
    usage: Usage
    cost_nano: int
    cached: bool = False
    saved_nano: int = 0


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One ledger entry of a call of step `n`, called `step`; `reserved` is what it was planned as."""

    call_id: UUID
    kind: str
    n: int
    step: str
    reserved: Reservation
    nano: int
    usage: Usage
    at: datetime
    saving: Saving = NO_SAVING


class Fact(msgspec.Struct, frozen=True, gc=False):
    """One event: type, moment, actor, and its data as JSON text."""

    type: str
    at: datetime
    actor_kind: str
    actor_id: str
    data: str | None


class Move(msgspec.Struct, frozen=True, gc=False):
    """What a call moves in the slices of the budget accounts `accounts` ("12,15"), nano-dollars.

    An intent reserves; an outcome takes that back and spends.
    """

    call_id: UUID
    accounts: str
    spent_nano: int
    reserved_nano: int


class RunWrite(msgspec.Struct):
    """What one run writes at once; `seq` is the number its first event gets.

    `tenant`, `key_id` and `task_type` say whose its money is.
    """

    run_id: UUID
    tenant: str
    fence: int
    seq: int
    key_id: str | None = None
    task_type: str | None = None
    intents: list[Intent] = msgspec.field(default_factory=list)
    outcomes: list[StepOutcome] = msgspec.field(default_factory=list)
    entries: list[Entry] = msgspec.field(default_factory=list)
    facts: list[Fact] = msgspec.field(default_factory=list)
    moves: list[Move] = msgspec.field(default_factory=list)
    new_steps: int = 0

    @property
    def next_seq(self) -> int:
        """The next event's number, once this is written."""
        return self.seq + len(self.facts)


class Ending(msgspec.Struct, frozen=True, gc=False):
    """A run's end with the last of its journal."""

    write: RunWrite
    state: str
    output: bytes | None
    error_code: str | None
    error_message: str | None
    ended_at: datetime
    degraded: tuple[str, ...] = ()
    fingerprint: str | None = None


class Leaving(msgspec.Struct, frozen=True, gc=False):
    """A run given back to the queue, behind `gate` for `delay_s` or, None, at once.

    `errors` is 1 when the attempt ended in an error.
    """

    run_id: UUID
    fence: int
    seq: int
    delay_s: float | None
    errors: int
    type: str
    data: str | None
    actor_kind: str = "worker"
    gate: str = Gate.TIME
