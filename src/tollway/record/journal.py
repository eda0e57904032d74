"""The journal's writes: intents, outcomes, money and events of running runs, and their ends, each under its fence.

A write names the run's fence and the next event number as its writer knows them. What the database does not find so
is left out whole, and then looked up: either an earlier copy of this very write arrived (its answer was lost), or the
lease is lost (Fenced).
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tollway import failpoints
from tollway.domain.errors import Fenced
from tollway.domain.gates import Gate
from tollway.domain.llm import Usage
from tollway.record.database import Database


class Intent(msgspec.Struct, frozen=True, gc=False):
    """A step about to be done. `reserved_nano` is its worst case in money: this row is the reservation."""

    n: int
    path: str
    kind: str
    name: str
    attempt: int
    call_id: UUID
    reserved_nano: int
    started_at: datetime
    route: str | None


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
    """One ledger entry of a call."""

    call_id: UUID
    kind: str
    n: int
    route: str | None
    model: str | None
    price_version: str | None
    nano: int
    usage: Usage
    at: datetime


class Fact(msgspec.Struct, frozen=True, gc=False):
    """One event: type, moment, actor, and its data as JSON text."""

    type: str
    at: datetime
    actor_kind: str
    actor_id: str
    data: str | None


class RunWrite(msgspec.Struct):
    """What one run writes at once. `seq` is the number its first event gets."""

    run_id: UUID
    tenant: str
    fence: int
    seq: int
    intents: list[Intent] = msgspec.field(default_factory=list)
    outcomes: list[StepOutcome] = msgspec.field(default_factory=list)
    entries: list[Entry] = msgspec.field(default_factory=list)
    facts: list[Fact] = msgspec.field(default_factory=list)
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


Verdict = bool | Exception
"""True: it stands in the record. Otherwise why not."""


class JournalRecord:
    """The journal's writes of one worker."""

    def __init__(
        self, database: Database, worker: int, on_opened: Callable[[Sequence[str]], None] | None = None
    ) -> None:
        """`on_opened` hears of the lanes of runs that may start now, since they waited for an ended one's key."""
        self._database = database
        self._worker = worker
        self._on_opened = on_opened

    async def write(self, writes: Sequence[RunWrite]) -> list[Verdict]:
        """Write what running runs did."""
        if not writes:
            return []
        if failpoints.armed:
            _pass("before", writes)
        rows = await self._database.rows(
            "write_journal",
            self._worker,
            *_headers(writes),
            *_intents(writes),
            *_outcomes(writes),
            *_entries(writes),
            *_facts(writes),
            *_range([write.run_id for write in writes]),
        )
        if failpoints.armed:
            _pass("after", writes)
        return await self._verdicts(rows, writes)

    async def complete(self, endings: Sequence[Ending]) -> list[Verdict]:
        """End runs."""
        if not endings:
            return []
        writes = [ending.write for ending in endings]
        if failpoints.armed:
            _pass("before", writes)
            failpoints.hit("complete.before")
        facts = _facts(writes)
        rows = await self._database.rows(
            "complete_runs",
            self._worker,
            *_headers(writes),
            *_outcomes(writes),
            *_entries(writes),
            *facts[:6],
            [ending.state for ending in endings],
            [ending.output for ending in endings],
            [ending.error_code for ending in endings],
            [ending.error_message for ending in endings],
            [ending.ended_at for ending in endings],
            [",".join(ending.degraded) or None for ending in endings],
            [ending.fingerprint for ending in endings],
            facts[6],
            *_range([write.run_id for write in writes]),
        )
        if failpoints.armed:
            _pass("after", writes)
            failpoints.hit("complete.after")
        if rows and rows[0][1] is not None and self._on_opened is not None:
            self._on_opened(rows[0][1])
        return await self._verdicts(rows, writes)

    async def requeue(self, leavings: Sequence[Leaving]) -> list[Verdict]:
        """Give runs back to the queue."""
        rows = await self._database.rows(
            "requeue_runs",
            self._worker,
            [leaving.run_id for leaving in leavings],
            [leaving.fence for leaving in leavings],
            [leaving.seq for leaving in leavings],
            [leaving.delay_s for leaving in leavings],
            [leaving.errors for leaving in leavings],
            [leaving.type for leaving in leavings],
            [leaving.data for leaving in leavings],
            [leaving.actor_kind for leaving in leavings],
            [leaving.gate for leaving in leavings],
        )
        written = {row[0] for row in rows}
        return [leaving.run_id in written or Fenced(leaving.run_id) for leaving in leavings]

    async def steps(self, run_ids: Sequence[UUID]) -> dict[UUID, list[Any]]:
        """The recorded steps of runs about to be replayed, in order."""
        found: dict[UUID, list[Any]] = {}
        for row in await self._database.rows("read_steps", list(run_ids), *_range(run_ids)):
            found.setdefault(row["run_id"], []).append(row)
        return found

    async def _verdicts(self, rows: Sequence[Any], writes: Sequence[RunWrite]) -> list[Verdict]:
        if len(rows) == len(writes):
            return [True] * len(writes)
        written = {row[0] for row in rows}
        missing = [write for write in writes if write.run_id not in written]
        arrived = await self._arrived(missing)
        return [write.run_id in written or write.run_id in arrived or Fenced(write.run_id) for write in writes]

    async def _arrived(self, writes: Sequence[RunWrite]) -> set[UUID]:
        """Those of the refused writes that an earlier copy of themselves had written already."""
        if not writes:
            return set()
        ids = [write.run_id for write in writes]
        stands = {row["run_id"]: row for row in await self._database.rows("find_writes", ids, *_range(ids))}
        arrived = set()
        for write in writes:
            row = stands[write.run_id]
            held = row["worker"] == self._worker and row["fence"] == write.fence and row["next_seq"] == write.next_seq
            if held or (row["worker"] is None and row["final_fence"] == write.fence):
                arrived.add(write.run_id)
        return arrived


def _pass(side: str, writes: Sequence[RunWrite]) -> None:
    if any(write.intents for write in writes):
        failpoints.hit(f"intent.{side}")
    if any(write.outcomes for write in writes):
        failpoints.hit(f"outcome.{side}")
    if any(write.entries for write in writes):
        failpoints.hit(f"settle.{side}")


def _range(ids: Sequence[UUID]) -> tuple[UUID, UUID]:
    return min(ids), max(ids)


def _headers(writes: Sequence[RunWrite]) -> list[list[Any]]:
    columns: list[list[Any]] = [[] for _ in range(10)]
    for write in writes:
        calls = tokens_in = tokens_out = cached = cost = 0
        for outcome in write.outcomes:
            calls += outcome.calls
            tokens_in += outcome.usage.input_tokens
            tokens_out += outcome.usage.output_tokens
            cached += outcome.usage.cached_tokens
            cost += outcome.cost_nano
        values = (
            write.run_id,
            write.fence,
            write.seq,
            len(write.facts),
            write.new_steps,
            calls,
            tokens_in,
            tokens_out,
            cached,
            cost,
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return columns


def _table(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def _intents(writes: Sequence[RunWrite]) -> list[list[Any]]:
    rows = [
        (
            write.run_id,
            intent.n,
            intent.path,
            intent.kind,
            intent.name,
            intent.attempt,
            write.fence,
            intent.call_id,
            intent.reserved_nano,
            intent.started_at,
            intent.route,
        )
        for write in writes
        for intent in write.intents
    ]
    return _table(rows, 11)


def _outcomes(writes: Sequence[RunWrite]) -> list[list[Any]]:
    rows = [
        (
            write.run_id,
            outcome.n,
            outcome.state,
            outcome.ended_at,
            outcome.result,
            outcome.error,
            outcome.route,
            outcome.calls,
            outcome.usage.input_tokens,
            outcome.usage.output_tokens,
            outcome.usage.cached_tokens,
            outcome.cost_nano,
            outcome.cached,
            outcome.saved_nano,
        )
        for write in writes
        for outcome in write.outcomes
    ]
    return _table(rows, 14)


def _entries(writes: Sequence[RunWrite]) -> list[list[Any]]:
    rows = [
        (
            entry.call_id,
            entry.kind,
            write.run_id,
            entry.n,
            write.tenant,
            entry.route,
            entry.model,
            entry.price_version,
            entry.nano,
            entry.usage.input_tokens,
            entry.usage.output_tokens,
            entry.usage.cached_tokens,
            entry.usage.estimated,
            entry.at,
        )
        for write in writes
        for entry in write.entries
    ]
    return _table(rows, 14)


def _facts(writes: Sequence[RunWrite]) -> list[list[Any]]:
    rows = [
        (write.run_id, write.seq + offset, fact.type, fact.at, fact.actor_kind, fact.actor_id, fact.data)
        for write in writes
        for offset, fact in enumerate(write.facts)
    ]
    return _table(rows, 7)
