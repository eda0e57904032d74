"""One writer for the journals of all runs of a worker: group commits that wait out any outage of the database."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from tollway.record.group_commit import FlushOptions, GroupCommit
from tollway.record.journal import JournalRecord
from tollway.record.writes import Ending, Leaving, RunWrite
from tollway.spend.budgets import NO_BUDGETS, Budgets
from tollway.telemetry.metrics import Metrics


class Writing(Protocol):
    """A run's journal, as its writer knows it."""

    def take(self) -> RunWrite | None:
        """What is to be written now; the same again while it is on its way."""


class JournalWriter:
    """Joins the journals of all runs of a worker in group commits that wait out any outage of the database.

    `budgets` pay for the calls of its runs.
    """

    def __init__(
        self,
        record: JournalRecord,
        on_written: Callable[[UUID], None],
        metrics: Metrics,
        budgets: Budgets = NO_BUDGETS,
    ) -> None:
        self.budgets = budgets
        self._on_written = on_written
        self.loop = asyncio.get_running_loop()
        patient = FlushOptions(patience_s=float("inf"))
        self._record = record
        self.writes: GroupCommit[Writing, bool] = GroupCommit(self._write, patient, metrics.flushes("journal"))
        self.endings: GroupCommit[Ending, bool] = GroupCommit(record.complete, patient, metrics.flushes("complete"))
        self.leavings: GroupCommit[Leaving, bool] = GroupCommit(record.requeue, patient, metrics.flushes("requeue"))

    async def drain(self) -> None:
        """Wait for all that was handed in."""
        await self.writes.drain()
        await self.endings.drain()
        await self.leavings.drain()

    async def settled(self) -> None:
        """Wait until all that journals hold by now is written: what is on its way, and what gathered behind it."""
        for _ in range(2):
            await self.writes.settled()
            await asyncio.sleep(0)  # a journal hands in what gathered when it hears that its last write has landed

    async def _write(self, journals: Sequence[Writing]) -> list[bool | Exception]:
        taken = [journal.take() for journal in journals]
        writes = [write for write in taken if write is not None]
        verdicts = iter(await self._record.write(writes)) if writes else iter(())
        for write in writes:
            self._on_written(write.run_id)
        return [True if write is None else next(verdicts) for write in taken]
