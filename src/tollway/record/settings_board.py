"""One noun of the settings in the memory of a process that serves calls.

change --commit--> settings' version rises --> news "settings", or the next beat, tells --> each process reads
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import asyncpg

from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.news import News
from tollway.record.database import Database

_RETRY_S = 1.0

Noun = TypeVar("Noun")


class SettingsBoard(Generic[Noun]):
    """What is in force: `now`, read by a named query and made of its rows; `version` is that of the settings then.

    A worker's board reads at `start`, on news and when `version_seen` is told of a change, so idle costs no query. It
    keeps what it has while the database is out of reach. A process that reads its settings anyway calls `take`.
    """

    def __init__(
        self, database: Database, news: News, name: str, made_of: Callable[[Sequence[asyncpg.Record]], Noun]
    ) -> None:
        self._database = database
        self._news = news
        self._name = name
        self._made_of = made_of
        self.now = made_of(())
        self.version = 0
        self._listeners: list[Callable[[], None]] = []
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
        self._task = asyncio.get_running_loop().create_task(self._keep_reading(), name=self._name)

    async def stop(self) -> None:
        """Read no more; a second stop is nothing."""
        task, self._task = self._task, None
        if task is not None:
            self._forget()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every reading."""
        self._listeners.append(listener)

    def version_seen(self, version: int) -> None:
        """The settings are at this version, as a beat has told."""
        if version > self.version:
            self._wake.set()

    def take(self, now: Noun, version: int = 0) -> None:
        """This is in force, at this version of the settings."""
        self.now = now
        self.version = max(self.version, version)
        for listener in self._listeners:
            listener()

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
        """The version first, so that what is read is at least as new."""
        async with self._database.connection() as connection, connection.transaction():
            version = (await self._database.on(connection, "read_settings_version"))[0]["version"]
            rows = await self._database.on(connection, self._name)
        self.take(self._made_of(rows), version)
