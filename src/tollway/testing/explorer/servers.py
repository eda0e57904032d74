"""The explorer's PostgreSQL servers and the databases cloned on them, one a seed."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from tollway.domain.clock import AnchoredClock
from tollway.record.database import Database, DatabaseOptions
from tollway.record.keys import ensure_admin_key
from tollway.record.migrate import migrate
from tollway.record.server import EmbeddedOptions, EmbeddedPostgres
from tollway.testing.explorer.history import statement

ADMIN_KEY = "tw_explorer_0123456789_0123456789_0123"
TEMPLATE = "explorer_template"
_OPTIONS = EmbeddedOptions(fsync=False, shared_buffers_mb=64)


class Server:
    """One real server, supervised, with a migrated template. `lock` is for a seed that crashes it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tollway-explorer-"))
        self._postgres = EmbeddedPostgres(self._folder, _OPTIONS)
        self._supervising: asyncio.Task[None] | None = None
        self.lock = asyncio.Lock()

    async def start(self) -> None:
        """Serve, and make the template."""
        await self._postgres.start()
        self._supervising = asyncio.create_task(self._postgres.supervise())
        await self._order("create_database", TEMPLATE, "template1")
        await migrate(self.owner_url(TEMPLATE))
        database = Database(DatabaseOptions(self.owner_url(TEMPLATE), connections_max=1), AnchoredClock())
        await database.start()
        try:
            await ensure_admin_key(database, ADMIN_KEY)
        finally:
            await database.stop()

    async def stop(self) -> None:
        """Stop, and leave nothing behind; a second stop is nothing."""
        await self._postgres.stop()
        supervising, self._supervising = self._supervising, None
        if supervising is not None:
            await supervising
        shutil.rmtree(self._folder, ignore_errors=True)

    def crash(self) -> None:
        """SIGKILL the postmaster; the supervisor starts it again."""
        pid = self._postgres.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def app_url(self, database: str) -> str:
        """A database as Tollway's processes reach it."""
        return self._postgres.url_of("tollway_app", database)

    def owner_url(self, database: str) -> str:
        """A database as its owner reaches it."""
        return self._postgres.url_of("tollway", database)

    @asynccontextmanager
    async def clone(self, name: str) -> AsyncIterator[str]:
        """A database of the seed's own; its name."""
        await self._order("create_database", name, TEMPLATE)
        try:
            yield name
        finally:
            await self._order("drop_database", name)

    async def _order(self, order: str, *names: str) -> None:
        connection = await asyncpg.connect(self._postgres.admin_url)
        try:
            await connection.execute(statement(order).format(*names))
        finally:
            await connection.close()
