"""Brings a database to this version's schema: forward only, each migration once, in one transaction each.

A file is named NNNN_PHASE_NAME.sql: `pre` runs before the new code is deployed (it adds), `post` after the old code is
gone (it removes), so processes of version N and N-1 work side by side on either. Two migrators at once take turns.
"""

import asyncio
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.record.database import UNREACHABLE
from tollway.record.sql import query

PHASES = ("pre", "post")
_LOCK_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    version: int
    phase: str
    name: str
    sql: str


def migrations() -> list[Migration]:
    """Every migration this version knows, in order."""
    found = []
    for entry in files("tollway.record.sql").joinpath("migrations").iterdir():
        if entry.name.endswith(".sql"):
            number, phase, name = entry.name.removesuffix(".sql").split("_", 2)
            found.append(Migration(int(number), phase, name, entry.read_text()))
    return sorted(found, key=lambda migration: migration.version)


def latest_version() -> int:
    """The schema this version of the code works with."""
    return migrations()[-1].version


async def migrate(url: str, phases: tuple[str, ...] = PHASES) -> list[Migration]:
    """Apply what is missing; returns it. Raises DatabaseUnavailable, or ConfigError when the role may not."""
    try:
        connection = await asyncpg.connect(url, timeout=10, statement_cache_size=0)
    except UNREACHABLE as error:
        raise DatabaseUnavailable(str(error) or type(error).__name__) from error
    try:
        return await _apply(connection, phases)
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigError(
            "database.url",
            "(hidden)",
            f"its role may not change the schema ({error}); run `tollway migrate` as the owner",
        ) from error
    except UNREACHABLE as error:
        raise DatabaseUnavailable(str(error) or type(error).__name__) from error
    finally:
        await connection.close()


async def schema_version(url: str) -> int:
    """How far a database is; 0 when it is empty. Raises DatabaseUnavailable."""
    try:
        connection = await asyncpg.connect(url, timeout=10, statement_cache_size=0)
        try:
            if await connection.fetchval(query("schema_exists")):
                return int(await connection.fetchval(query("read_schema_version")))
            return 0
        finally:
            await connection.close()
    except UNREACHABLE as error:
        raise DatabaseUnavailable(str(error) or type(error).__name__) from error


async def _apply(connection: asyncpg.Connection, phases: tuple[str, ...]) -> list[Migration]:
    applied = []
    while not await connection.fetchval(query("lock_schema")):  # noqa: ASYNC110  the other migrator is another process
        await asyncio.sleep(_LOCK_PAUSE_S)
    try:
        await connection.execute(query("make_schema_version"))
        known = {row[0] for row in await connection.fetch(query("list_schema_versions"))}
        for migration in migrations():
            if migration.version in known:
                continue
            if migration.phase not in phases:
                break
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    query("add_schema_version"), migration.version, migration.phase, migration.name
                )
            applied.append(migration)
        await connection.execute(query("grant_app"))
    finally:
        await connection.execute(query("unlock_schema"))
    return applied
