"""The pool: connections to Postgres, named queries, and what a lost connection means.

Works behind PgBouncer in transaction mode (`pooled=True`: no prepared statements, no session state); otherwise every
query is prepared once a connection.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from asyncpg.protocol import protocol as asyncpg_protocol

from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import DatabaseUnavailable
from tollway.record.sql import query

UNREACHABLE = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a statement met the server's farewell, read but not yet acted upon
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)
"""What is raised when the database cannot be reached just now, whatever the statement was."""

TRANSIENT = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
)
"""What the database refuses for now, undoing the whole statement: who lost a deadlock or a lock, or met a full disk."""

# asyncpg asks of every element of every array whether it is an abstract Sized or Iterable, to find nested arrays: a
# seventh of a worker's CPU under load. Our parameters are flat lists, so the concrete classes answer as well.
for _abstract in ("IterableABC", "SizedABC"):
    if hasattr(asyncpg_protocol, _abstract):
        setattr(asyncpg_protocol, _abstract, (list, tuple))

CONNECT_TIMEOUT_S = 5.0
QUERIES_MAX = 10_000_000
"""After so many a connection is replaced: its statements are prepared anew, so not every half minute."""

_ANCHOR_SAMPLES = 3
COMMAND_TIMEOUT_S = 30.0
Connection = asyncpg.pool.PoolConnectionProxy
_SESSION = {
    "timezone": "UTC",
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",  # a plan made while a hot table was empty must not scan it when it is full
}


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """How to reach Postgres.

    `pooled` says that a transaction pooler stands before it; `durable=False` makes commits that do not wait for the
    disk, only for what a crash may forget (a claim).
    """

    url: str
    direct_url: str = ""
    pooled: bool = False
    connections_max: int = 8
    durable: bool = True
    application: str = "tollway"


class Database:
    """One process' connections to the record."""

    def __init__(self, options: DatabaseOptions, clock: AnchoredClock) -> None:
        self.options = options
        self.clock = clock
        self._pool: asyncpg.Pool | None = None

    async def start(self, *, anchor: bool = True) -> None:
        """Connect once and take the database's time. Raises DatabaseUnavailable.

        Without `anchor`, for a process' further pools, the clock has the time already and the first use connects.
        """
        if self._pool is not None:
            return
        try:
            self._pool = await asyncpg.create_pool(
                self.options.url,
                min_size=0,
                max_size=self.options.connections_max,
                max_inactive_connection_lifetime=120,
                max_queries=QUERIES_MAX,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=COMMAND_TIMEOUT_S,
                reset=_leave_as_it_is,
                **connect_arguments(self.options),
            )
            if anchor:
                await self.anchor()
        except UNREACHABLE as error:
            await self.stop()
            raise DatabaseUnavailable(str(error) or type(error).__name__) from error

    async def stop(self) -> None:
        """Close every connection; a second stop is nothing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), 5)
            except (TimeoutError, *UNREACHABLE):
                pool.terminate()

    async def anchor(self) -> None:
        """Anchor this process' clock to the database's, by the quickest of a few answers."""
        best: tuple[float, float, float, float] | None = None
        for _ in range(_ANCHOR_SAMPLES):
            asked = time.monotonic()
            now = float(await self.value("database_now"))
            answered = time.monotonic()
            best = min(best or (float("inf"), 0, 0, 0), (answered - asked, now, asked, answered))
        if best is not None:
            self.clock.anchor(*best[1:])

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for one use. Raises DatabaseUnavailable when none can be had, it is lost, or TRANSIENT."""
        if self._pool is None:
            raise DatabaseUnavailable("the pool is closed")
        try:
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
                try:
                    yield connection
                except asyncpg.InternalClientError:
                    connection.terminate()  # nobody else shall get it
                    raise
        except (*UNREACHABLE, *TRANSIENT) as error:
            raise DatabaseUnavailable(str(error) or type(error).__name__) from error

    async def on(self, connection: Connection, name: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run the named query on a connection that is held already."""
        found: list[asyncpg.Record] = await connection.fetch(query(name), *arguments)
        return found

    async def rows(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run the named query and return its rows."""
        async with self.connection() as connection:
            if self.options.pooled:  # a pooler may move the connection between prepare and execute
                async with connection.transaction():
                    return await self.on(connection, name, *arguments)
            return await self.on(connection, name, *arguments)

    async def row(self, name: str, *arguments: Any) -> asyncpg.Record | None:
        """Run the named query and return its first row, if any."""
        found = await self.rows(name, *arguments)
        return found[0] if found else None

    async def value(self, name: str, *arguments: Any) -> Any:
        """Run the named query and return the first column of its first row."""
        found = await self.row(name, *arguments)
        return None if found is None else found[0]


async def _leave_as_it_is(_connection: object) -> None:
    """Nothing we run leaves session state behind, so a connection goes back without a round trip to reset it."""


def connect_arguments(options: DatabaseOptions) -> dict[str, Any]:
    """What asyncpg needs beside the URL; a pooler takes no session settings and no prepared statements."""
    if options.pooled:
        return {"statement_cache_size": 0}
    return {
        "server_settings": {
            **_SESSION,
            "synchronous_commit": "on" if options.durable else "off",
            "application_name": options.application,
        },
        "statement_cache_size": 200,
        "max_cached_statement_lifetime": 0,
    }
