"""Reading runs, events and steps. Single look-ups of many callers travel together in one statement (group read)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tollway.domain.ids import floor_at
from tollway.domain.words import LIVE_STATES
from tollway.record.database import Database
from tollway.record.group_commit import FlushOptions, GroupCommit
from tollway.record.run_document import LIVE_STATE_NAMES, RunRow, rfc3339

if TYPE_CHECKING:
    import asyncio

EVENTS_PAGE = 200
_LEAST = UUID(int=0)
_GREATEST = UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One fact about a run; `data` is JSON text or None."""

    seq: int
    type: str
    at: datetime
    actor_kind: str
    actor_id: str
    data: str | None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a list or a bulk action means; None is any. Times are epoch seconds, the later one exclusive."""

    tenant: str | None = None
    state: str | None = None
    agent: str | None = None
    lane: str | None = None
    created_after: float | None = None
    created_before: float | None = None
    metadata: tuple[tuple[str, str], ...] = field(default=())


class RunReads:
    """Group reads of runs by id and of events by run and number."""

    def __init__(
        self, database: Database, patience_s: float = 2.0, on_flush: Callable[[int, float], None] | None = None
    ) -> None:
        self._database = database
        options = FlushOptions(rows_max=200, flights_max=2, patience_s=patience_s)
        self._runs: GroupCommit[UUID, RunRow | None] = GroupCommit(self._read_runs, options, on_flush)
        self._events: GroupCommit[tuple[UUID, int], list[StoredEvent]] = GroupCommit(
            self._read_events, options, on_flush
        )

    def run(self, run_id: UUID) -> "asyncio.Future[RunRow | None]":
        """The run's row, or None when there is none. The future raises DatabaseUnavailable."""
        return self._runs.put(run_id)

    def events(self, run_id: UUID, after_seq: int) -> "asyncio.Future[list[StoredEvent]]":
        """Up to EVENTS_PAGE events beyond a number, in order. The future raises DatabaseUnavailable."""
        return self._events.put((run_id, after_seq))

    async def list_runs(self, wanted: RunFilter, before: UUID | None, limit: int) -> list[RunRow]:
        """Runs newest first, older than the cursor. Raises DatabaseUnavailable."""
        ids = await list_run_ids(self._database, wanted, before, limit)
        if not ids:
            return []
        found = await self._by_id(ids)
        return [found[one] for one in ids if one in found]

    async def drain(self) -> None:
        """Wait until every read under way has ended."""
        await self._runs.drain()
        await self._events.drain()

    async def _read_runs(self, ids: Sequence[UUID]) -> Sequence[RunRow | None]:
        found = await self._by_id(ids)
        return [found.get(one) for one in ids]

    async def _by_id(self, ids: Sequence[UUID]) -> dict[UUID, RunRow]:
        rows: list[Any] = await self._database.rows("read_runs", ids, min(ids), max(ids))
        return {row[0]: row for row in rows}

    async def _read_events(self, wanted: Sequence[tuple[UUID, int]]) -> Sequence[list[StoredEvent]]:
        asked = {pair: at for at, pair in enumerate(dict.fromkeys(wanted))}
        rows = await self._database.rows(
            "read_events", [run_id for run_id, _ in asked], [seq for _, seq in asked], EVENTS_PAGE
        )
        found: list[list[StoredEvent]] = [[] for _ in asked]
        for at, *event in rows:
            found[at - 1].append(StoredEvent(*event))
        return [found[asked[pair]] for pair in wanted]


async def list_run_ids(database: Database, wanted: RunFilter, before: UUID | None, limit: int) -> list[UUID]:
    """Ids of the runs that fit, newest first, older than the cursor. Raises DatabaseUnavailable."""
    state: Any = wanted.state
    name = "list_run_ids" if wanted.tenant is None else "list_run_ids_of_tenant"
    if state in LIVE_STATES:
        name, state = "list_live_run_ids", LIVE_STATE_NAMES.index(state)
    return await _ids(database, name, state, wanted, (before, limit))


async def _ids(
    database: Database, name: str, state: Any, wanted: RunFilter, page: tuple[UUID | None, int]
) -> list[UUID]:
    before, limit = page
    rows = await database.rows(
        name,
        wanted.tenant,
        before or _GREATEST,
        *id_bounds(wanted),
        wanted.agent,
        wanted.lane,
        state,
        [key for key, _ in wanted.metadata],
        [value for _, value in wanted.metadata],
        limit,
    )
    return [row[0] for row in rows]


def id_bounds(wanted: RunFilter) -> tuple[UUID, UUID]:
    """The ids that runs made within the filter's times can have: from the first on, below the second."""
    return (
        _LEAST if wanted.created_after is None else floor_at(wanted.created_after),
        _GREATEST if wanted.created_before is None else floor_at(wanted.created_before),
    )


async def list_steps(database: Database, run_id: UUID, after_n: int, limit: int) -> list[dict[str, Any]]:
    """The journal of a run after step `after_n`. Raises DatabaseUnavailable."""
    return [
        {
            "n": row["n"],
            "name": row["name"],
            "kind": row["kind"],
            "state": row["state"],
            "attempt": row["attempt"],
            "route": row["route"],
            "cached": row["cached"],
            "input_tokens": row["input_tokens"],
            "output_tokens": row["output_tokens"],
            "cost_usd": row["cost_nano"] / 1e9,
            "cost_nano": row["cost_nano"],
            "saved_usd": row["saved_nano"] / 1e9,
            "saved_nano": row["saved_nano"],
            "calls": row["calls"],
            "started_at": rfc3339(row["started_at"]),
            "ended_at": None if row["ended_at"] is None else rfc3339(row["ended_at"]),
            "error": row["error"],
        }
        for row in await database.rows("list_steps", run_id, after_n, limit)
    ]
