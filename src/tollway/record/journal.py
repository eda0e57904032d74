"""The journal's writes: intents, outcomes, money and events of running runs, and their ends, each under its fence.

A write names the run's fence and the next event number as its writer knows them. What the database does not find so
is left out whole, and then looked up: either an earlier copy of this very write arrived (its answer was lost), or the
lease is lost (Fenced).
"""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from tollway import failpoints
from tollway.domain.errors import Fenced
from tollway.domain.ids import floor_at
from tollway.record.database import Database
from tollway.record.journal_columns import entries_of, facts_of, headers_of, intents_of, moves_of, outcomes_of
from tollway.record.writes import Ending, Leaving, RunWrite

_CLOCKS_APART_S = 86_400.0

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
            *headers_of(writes),
            *intents_of(writes),
            *outcomes_of(writes),
            *entries_of(writes),
            *facts_of(writes),
            *_range([write.run_id for write in writes]),
            *moves_of(writes),
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
        facts = facts_of(writes)
        rows = await self._database.rows(
            "complete_runs",
            self._worker,
            *headers_of(writes),
            *outcomes_of(writes),
            *entries_of(writes),
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
            *moves_of(writes),
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

    async def stood(self, run_ids: Sequence[UUID]) -> dict[UUID, list[str]]:
        """The rungs of budgets on which these runs stood so far, in order, as their events tell."""
        found: dict[UUID, list[str]] = {}
        for row in await self._database.rows("read_stood", list(run_ids), *_range(run_ids)):
            found.setdefault(row["run_id"], []).append(row["rung"])
        return found

    async def unknown_nano(self, run_ids: Sequence[UUID]) -> dict[UUID, int]:
        """What calls of these runs may have cost of which nobody knows, nano-dollars; runs without any are left out."""
        began_s = (min(run_ids).int >> 80) / 1000
        least = floor_at(began_s - _CLOCKS_APART_S)  # a run's calls are younger than the run, by every clock
        rows = await self._database.rows("read_unknown_nano", list(run_ids), least)
        return {row["run_id"]: row["nano"] for row in rows}

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
