"""Tier shifts on record, and in the memory of processes that serve calls.

change --commit--> settings' version rises --> news "settings", or the next beat, tells --> each process reads
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Iterable, Sequence

import asyncpg

from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.news import News
from tollway.domain.shifts import Shift
from tollway.record.database import Database

_RETRY_S = 1.0


def shift_record(row: asyncpg.Record) -> Shift:
    """A row of `list_shifts` as a shift."""
    return Shift(row["from_tier"], row["to_tier"], row["tenant"], row["agent"], row["task_type"])


async def put_shifts(database: Database, shifts: Sequence[Shift]) -> int:
    """Replace all shifts; returns the settings' version. Raises DatabaseUnavailable.

    The tenants they name must be there.
    """
    given = json.dumps([shift.document() for shift in shifts])
    async with database.connection() as connection, connection.transaction():
        await database.on(connection, "lock_settings")
        await database.on(connection, "clear_shifts")
        return int((await database.on(connection, "put_shifts", given))[0]["version"])


class ShiftBoard:
    """The shifts in force, in memory: `now`.

    A worker's board reads at `start`, on news and when `version_seen` is told of a change, so idle costs no query. It
    keeps what it has while the database is out of reach. A process that reads its settings anyway calls `take`.
    """

    def __init__(self, database: Database, news: News) -> None:
        self._database = database
        self._news = news
        self.now: tuple[Shift, ...] = ()
        self._version = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    async def start(self) -> None:
        """Read, and go on reading what changes. Raises DatabaseUnavailable."""
        if self._task is not None:
            return
        self._unsubscribe = self._news.subscribe("settings", lambda _: self._wake.set())
        try:
            await self._read()
        except BaseException:
            self._forget()
            raise
        self._task = asyncio.get_running_loop().create_task(self._keep_reading(), name="shifts")

    async def stop(self) -> None:
        """Read no more; a second stop is nothing."""
        task, self._task = self._task, None
        if task is not None:
            self._forget()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def version_seen(self, version: int) -> None:
        """The settings are at this version, as a beat has told."""
        if version > self._version:
            self._wake.set()

    def take(self, shifts: Iterable[Shift]) -> None:
        """These are in force."""
        self.now = tuple(shifts)

    def _forget(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    async def _keep_reading(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._read()
            except DatabaseUnavailable:
                self._wake.set()
                await asyncio.sleep(_RETRY_S * random.uniform(0.5, 1.5))

    async def _read(self) -> None:
        """The version first, so that the shifts are at least as new."""
        async with self._database.connection() as connection, connection.transaction():
            version = (await self._database.on(connection, "read_settings_version"))[0]["version"]
            rows = await self._database.on(connection, "list_shifts")
        self.take(shift_record(row) for row in rows)
        self._version = version
