"""What explorations share: two PostgreSQL servers (one of them to be crashed) and a migrated database to clone."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import asyncpg

from tollway.domain.clock import AnchoredClock
from tollway.record.database import Database, DatabaseOptions
from tollway.record.keys import ensure_admin_key
from tollway.record.migrate import migrate
from tollway.record.server import EmbeddedOptions, EmbeddedPostgres

from .drive import ADMIN_KEY, Exploration, Verdict
from .plan import plan
from .zygote import Zygote

_TEMPLATE = "explorer_template"


class World:
    """Explores seeds; as many at once as asked for."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._servers: dict[bool, _Server] = {}
        self._making = asyncio.Lock()
        self._crashing = asyncio.Lock()

    async def explore(self, seed: int) -> Verdict:
        """Play the plan of a seed."""
        chosen = plan(seed)
        crash = chosen.crashes_postgres
        async with self._crashing if crash else contextlib.AsyncExitStack():
            server = await self._server(crash)
            async with server.clone() as database:
                return await Exploration(chosen, self._zygote, server.postgres, database).run()

    async def close(self) -> None:
        """Stop the servers."""
        for server in self._servers.values():
            await server.stop()

    async def _server(self, crash: bool) -> "_Server":
        async with self._making:
            if crash not in self._servers:
                self._servers[crash] = await _Server.start()
            return self._servers[crash]


class _Server:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)
        self._cloning = asyncio.Lock()
        self.postgres = EmbeddedPostgres(
            folder, EmbeddedOptions(fsync=False, max_connections=300, shared_buffers_mb=64)
        )

    @classmethod
    async def start(cls) -> "_Server":
        server = cls(Path(tempfile.mkdtemp(prefix="tollway-crash-pg-")))
        await server.postgres.start()
        server._supervising = asyncio.get_running_loop().create_task(server.postgres.supervise())
        await server._admin(f"create database {_TEMPLATE} owner tollway")
        url = server.postgres.url_of("tollway", _TEMPLATE)
        await migrate(url)
        database = Database(DatabaseOptions(url, connections_max=1), AnchoredClock())
        await database.start()
        await ensure_admin_key(database, ADMIN_KEY)
        await database.stop()
        return server

    async def stop(self) -> None:
        await self.postgres.stop()
        await self._supervising
        shutil.rmtree(self._folder, ignore_errors=True)

    @asynccontextmanager
    async def clone(self) -> AsyncIterator[str]:
        """A database of one exploration's own, gone afterwards."""
        name = f"explorer_{next(self._numbers)}"
        async with self._cloning:
            await self._admin(f"create database {name} template {_TEMPLATE} owner tollway strategy file_copy")
        try:
            yield name
        finally:
            await self._admin(f"drop database if exists {name} with (force)")

    async def _admin(self, statement: str) -> None:
        for patience in (*range(50), None):
            try:
                connection = await asyncpg.connect(self.postgres.url_of("postgres", "postgres"))
                try:
                    await connection.execute(statement)
                finally:
                    await connection.close()
                return
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
                if patience is None:
                    raise
                await asyncio.sleep(0.1)
