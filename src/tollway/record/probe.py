"""Looks at a Postgres without using it: can it be reached, is it new enough, what is missing. Changes nothing."""

import time
from dataclasses import dataclass

import asyncpg

from tollway.record.sql import query

VERSION_MIN = 150_000
_CONNECT_TIMEOUT_S = 5.0
_QUERY_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What was found. With `error` set, nothing else is known.

    `version_num` is as Postgres counts (180001); `clock_ahead_s` is the database's clock minus ours; `pooled` says
    that something stands between us and the server; `schema_version` is None where there is no schema yet.
    """

    error: str = ""
    version: str = ""
    version_num: int = 0
    vector_installed: bool = False
    vector_available: bool = False
    schema_version: int | None = None
    pooled: bool = False
    standby: bool = False
    durable: bool = True
    clock_ahead_s: float = 0.0
    took_s: float = 0.0


async def probe(url: str) -> ProbeResult:
    """Connect to `url`, look, and leave, within about ten seconds. Raises nothing: a failure is in `error`."""
    try:
        connection = await asyncpg.connect(
            url, timeout=_CONNECT_TIMEOUT_S, command_timeout=_QUERY_TIMEOUT_S, statement_cache_size=0
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        return ProbeResult(error=_told(error))
    try:
        return await _look(connection)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return ProbeResult(error=_told(error))
    finally:
        await _leave(connection)


async def _look(connection: "asyncpg.Connection[asyncpg.Record]") -> ProbeResult:
    async with connection.transaction(readonly=True):  # a transaction pooler keeps us on one server for its length
        asked, asked_at = time.monotonic(), time.time()
        row = await connection.fetchrow(query("probe_server"))
        assert row is not None
        took_s = time.monotonic() - asked
        version = await _schema_version(connection) if row["has_schema"] else None
    return ProbeResult(
        version=row["version"],
        version_num=row["version_num"],
        vector_installed=row["vector_installed"],
        vector_available=row["vector_available"],
        schema_version=version,
        # A pooler makes up the pid it greets with; the server tells its own.
        pooled=connection.get_server_pid() != row["backend_pid"],
        standby=row["standby"],
        durable=row["fsync"] and row["synchronous_commit"],
        clock_ahead_s=row["now"] - (asked_at + took_s / 2),
        took_s=took_s,
    )


async def _schema_version(connection: "asyncpg.Connection[asyncpg.Record]") -> int | None:
    try:
        version: int | None = await connection.fetchval(query("probe_schema"))
    except (asyncpg.UndefinedColumnError, asyncpg.DataError):
        return None  # the table of that name is somebody else's
    return version


async def _leave(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    try:
        await connection.close(timeout=2.0)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_CONNECT_TIMEOUT_S:g} s"
    return str(error) or type(error).__name__
