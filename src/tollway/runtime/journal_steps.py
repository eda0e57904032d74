"""Steps as a run's journal holds them: as the code calls them, and those whose outcome is still open."""

from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from tollway.domain.llm import Usage
from tollway.domain.words import StepKind
from tollway.record.claims import Claim
from tollway.record.writes import Entry, Reservation, RunWrite, StepOutcome


class Step(msgspec.Struct, frozen=True):
    """A step as the code called it, and what the journal has of it (a row of `read_steps`), if anything."""

    path: str
    kind: str
    name: str
    recorded: Any


class OpenStep(msgspec.Struct):
    """An intent without an outcome. `begun` False: this claim wrote it, and has not begun the deed.

    `found` is one of an earlier claim, which nobody works on until the code comes to it again; `left` is one whose
    caller was cancelled before the deed, which nobody works on either, and which ends when its intent is written.
    """

    n: int
    kind: str
    name: str
    call_id: UUID
    reserved: Reservation
    begun: bool
    found: bool = False
    left: bool = False

    @property
    def paid(self) -> bool:
        """Whether its end wants an entry in the ledger: it is a call to a provider, or had money reserved."""
        return self.kind == StepKind.LLM or self.reserved.nano > 0


class Closable(Protocol):
    """Something a run left open; its end closes it."""

    async def aclose(self) -> None:
        """Close it, recording what it has."""

    async def cut(self) -> None:
        """Close it, recording no answer: the run comes back, and is to have the whole one."""


def entry_of(step: OpenStep, kind: str, nano: int, at: datetime) -> Entry:
    """The entry of a call whose answer nobody saw."""
    return Entry(step.call_id, kind, step.n, step.name, step.reserved, nano, Usage(estimated=True), at)


def cut_short(step: OpenStep, state: str, at: datetime, why: str) -> StepOutcome:
    """The outcome of a step that has none of its own."""
    return StepOutcome(step.n, state, at, None, why, step.reserved.route, 0, Usage(), 0)


def found_open(row: Any) -> OpenStep:
    """An intent that an earlier claim left (a row of `read_steps`)."""
    reserved = Reservation(
        row["reserved_nano"], row["route"], row["tier"], row["asked"], row["model"], row["price_version"]
    )
    return OpenStep(row["n"], row["kind"], row["name"], row["call_id"], reserved, begun=True, found=True)


def moves(write: RunWrite | None, n: int) -> bool:
    """Whether a write holds an outcome or an intent of a step."""
    if write is None:
        return False
    return any(one.n == n for one in write.outcomes) or any(one.n == n for one in write.intents)


def intent_data(n: int, step: Step, call_id: UUID) -> str:
    """What the event of a step's intent tells, as JSON."""
    name = msgspec.json.encode(step.name).decode()
    return f'{{"n":{n},"path":"{step.path}","kind":"{step.kind}","name":{name},"call_id":"{call_id}"}}'


def outcome_data(outcome: StepOutcome) -> str:
    """What the event of a step's outcome tells, as JSON."""
    usage = outcome.usage
    saved = f',"cached":true,"saved_nano":{outcome.saved_nano}' if outcome.cached else ""
    route = msgspec.json.encode(outcome.route).decode()
    return (
        f'{{"n":{outcome.n},"calls":{outcome.calls},"input_tokens":{usage.input_tokens},'
        f'"output_tokens":{usage.output_tokens},"cached_tokens":{usage.cached_tokens},"cost_nano":{outcome.cost_nano},'
        f'"route":{route}{saved}}}'
    )


def task_type_of(claim: Claim) -> str:
    """`metadata.task_type` of a run as text (as JSON where it is none); empty without."""
    if claim.metadata is None or '"task_type"' not in claim.metadata:
        return ""
    value = msgspec.json.decode(claim.metadata).get("task_type")
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
