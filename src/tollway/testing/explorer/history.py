"""All that is known after the dust has settled: the record, the provider's ledger, the client's answers, the marks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.resources import files
from uuid import UUID

import asyncpg

from tollway.domain.fold import Folded, FoldedUsage
from tollway.domain.words import RunState


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run's row; `row` is None while it has not ended. `live` says where the queue still has it."""

    id: UUID
    agent: str
    row: Folded | None
    output: bytes | None = None
    live: str | None = None


@dataclass(frozen=True, slots=True)
class EventFacts:
    """One event with its actor."""

    seq: int
    type: str
    at: datetime
    actor_kind: str
    actor_id: str
    data: str | None


@dataclass(frozen=True, slots=True)
class StepFacts:
    """One step as the journal has it."""

    n: int
    path: str
    kind: str
    name: str
    state: str
    call_id: UUID
    result: bytes | None = None


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """One entry of our ledger."""

    call_id: UUID
    kind: str
    nano: int


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """One call as the provider billed it."""

    call_id: str | None
    cost_nano: int
    status: int


@dataclass(frozen=True, slots=True)
class History:
    """Everything the checks look at. `answered` are the run ids of 202s by submit; `expected` the states by run."""

    runs: Sequence[RunFacts] = ()
    events: Mapping[UUID, Sequence[EventFacts]] = field(default_factory=dict)
    steps: Mapping[UUID, Sequence[StepFacts]] = field(default_factory=dict)
    entries: Sequence[EntryFacts] = ()
    provider: Sequence[ProviderRow] = ()
    marks: Sequence[str] = ()
    answered: Mapping[int, Sequence[UUID]] = field(default_factory=dict)
    keyed: frozenset[int] = frozenset()
    expected: Mapping[UUID, frozenset[str]] = field(default_factory=dict)


@cache
def statement(name: str) -> str:
    """One of the explorer's own named statements."""
    text = files(__package__).joinpath("queries/history.sql").read_text()
    sections = dict(section.split("\n", 1) for section in text.split("-- name: ")[1:])
    return sections[name]


async def read_record(connection: asyncpg.Connection) -> History:
    """The part of the history that the record holds."""
    events: dict[UUID, list[EventFacts]] = {}
    for run_id, *event in await connection.fetch(statement("explorer_events")):
        events.setdefault(_id(run_id), []).append(EventFacts(*event))
    steps: dict[UUID, list[StepFacts]] = {}
    for row in await connection.fetch(statement("explorer_steps")):
        step = StepFacts(
            row["n"], row["path"], row["kind"], row["name"], row["state"], _id(row["call_id"]), row["result"]
        )
        steps.setdefault(_id(row["run_id"]), []).append(step)
    entries = [
        EntryFacts(_id(row["call_id"]), row["kind"], row["nano"])
        for row in await connection.fetch(statement("explorer_ledger"))
    ]
    runs = [_run(row) for row in await connection.fetch(statement("explorer_runs"))]
    return History(runs, events, steps, entries)


def _id(value: UUID) -> UUID:
    return UUID(int=value.int)


def _run(row: asyncpg.Record) -> RunFacts:
    live = None
    if row["queued_as"] is not None:
        live = f"queue state {row['queued_as']}, gate {row['gate']}, worker {row['worker']}, lost {row['lost']}"
    if row["state"] is None:
        return RunFacts(_id(row["id"]), row["agent"], None, None, live or "not in the queue either")
    error = None if row["error_code"] is None else (row["error_code"], row["error_message"] or "")
    usage = FoldedUsage(
        row["steps"],
        row["llm_calls"],
        row["input_tokens"],
        row["output_tokens"],
        row["cached_tokens"],
        row["cost_nano"],
    )
    stands = Folded(RunState(row["state"]), row["attempt"], row["started_at"], row["ended_at"], error, usage)
    return RunFacts(_id(row["id"]), row["agent"], stands, row["output"], live)
