"""The queue alone: a throw-away durable PostgreSQL with the product's own accepts, without API, workers or agents.

Everything lies in a fresh folder that goes at the end.
"""

import asyncio
import contextlib
import itertools
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tollway.domain.clock import AnchoredClock
from tollway.domain.ids import IdMaker
from tollway.record.accept import Accepts, NewRun
from tollway.record.database import Database, DatabaseOptions
from tollway.record.migrate import migrate
from tollway.record.server import EmbeddedPostgres
from tollway.record.sizes import HOT_TABLES, TableSize, table_sizes
from tollway.record.tenants import put_tenant
from tollway.record.upkeep import Upkeep
from tollway.simulator.accounting import snapshot
from tollway.simulator.bench.stack import fresh_folder

AGENT, LANE = "document", "standard"
COST_NANO = 1_000_000
_CROWD = 400
_VACUUMS_DONE_S = 90.0
_LOOK_EVERY_S = 0.25
_USUAL: dict[str, Any] = {
    "key_id": "bench",
    "agent": AGENT,
    "version": "1",
    "lane": LANE,
    "input": b'{"text":"The machine at the station kept my card, what now?"}',
    "metadata": None,
    "priority_s": 0.0,
    "delay_s": 0.0,
    "deadline_at": None,
    "ttl_s": None,
    "max_attempts": 3,
    "budget_nano": None,
    "concurrency_key": None,
    "concurrency_policy": None,
    "webhook_url": None,
    "webhook_secret_env": None,
    "replay_of": None,
    "est_nano": COST_NANO,
    "idempotency_key": None,
    "body_hash": None,
}


class QueueRig:
    """A record, ready for runs."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.clock = AnchoredClock()
        self._server = server
        self._databases: list[Database] = []
        self._ids = IdMaker(self.clock)
        self._accepts: Accepts | None = None

    async def database(self, *, connections: int = 1, durable: bool = True) -> Database:
        """A pool of its own, closed with the rig."""
        options = DatabaseOptions(self._server.app_url, connections_max=connections, durable=durable)
        made = Database(options, self.clock)
        await made.start(anchor=not self._databases)
        self._databases.append(made)
        return made

    async def prepare(self) -> None:
        """The schema, today's partitions, and the way in."""
        await migrate(self._server.url)
        self._main = await self.database(connections=4)
        self._lazy = await self.database(connections=4, durable=False)
        await Upkeep(self._main, 0).make_partitions()
        self._accepts = Accepts(self._main)

    async def tenants(self, names: Sequence[str], **given: Any) -> None:
        """Make tenants with these settings, or change them."""
        lazy, todo = self._lazy, iter(names)

        async def make() -> None:
            for name in todo:
                await put_tenant(lazy, name, given)

        await asyncio.gather(*(make() for _ in range(4)))

    async def accept(self, count: int, tenants: Iterator[str], **wishes: Any) -> None:
        """Accept so many runs, each for the next of the tenants; `wishes` are fields of `NewRun`."""
        assert self._accepts is not None
        crowd: set[asyncio.Future[Any]] = set()
        for tenant in itertools.islice(tenants, count):
            if len(crowd) >= _CROWD:
                _, crowd = await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
            crowd.add(self._accepts.accept(self._run(tenant, wishes)))
        if crowd:
            await asyncio.gather(*crowd)

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Callable[[], Awaitable[object]]]:
        """A transaction that keeps what it first saw; call what is yielded now and then, lest it idles too long."""
        database = await self.database()
        async with database.connection() as connection, connection.transaction(isolation="repeatable_read"):
            yield lambda: database.on(connection, "table_sizes", list(HOT_TABLES))

    def cpu_s(self) -> dict[int, float]:
        """CPU seconds by process of the server, so far."""
        pid = self._server.pid
        processes = snapshot(-1 if pid is None else pid).processes
        return {process.pid: process.own_s for process in processes.values()}

    async def sizes(self) -> list[TableSize]:
        """The hot tables on disk."""
        return await table_sizes(self._main)

    async def vacuumed(self) -> None:
        """Returns when no vacuum is under way (or after a while): its work shall not be taken for that of claims."""
        stop = time.monotonic() + _VACUUMS_DONE_S
        pid = self._server.pid
        while pid is not None and time.monotonic() < stop:
            roles = [process.role for process in snapshot(pid).processes.values()]
            if roles.count("postgres autovacuum") <= 1:
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def close(self) -> None:
        """Close every pool."""
        if self._accepts is not None:
            await self._accepts.drain()
        for database in self._databases:
            await database.stop()

    def _run(self, tenant: str, wishes: dict[str, Any]) -> NewRun:
        now = self.clock.now()
        fields = {**_USUAL, "id": self._ids.new(), "tenant": tenant, "created_at": now, "predicted_start_at": now}
        return NewRun(**{**fields, **wishes})


@contextlib.asynccontextmanager
async def queue_rig(scratch: Path, *, keep: bool = False) -> AsyncIterator[QueueRig]:
    """A rig on a fresh folder in `scratch`. Raises DatabaseUnavailable or ConfigError when it does not start."""
    folder = fresh_folder(scratch)
    server = EmbeddedPostgres(folder / "data")
    try:
        await server.start()
        rig = QueueRig(server)
        try:
            await rig.prepare()
            yield rig
        finally:
            await rig.close()
    finally:
        await server.stop()
        if not keep:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
