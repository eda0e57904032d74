"""Finds out whether a transaction pooler (PgBouncer) stands before the database."""

import asyncpg

from tollway.domain.errors import DatabaseUnavailable
from tollway.record.database import UNREACHABLE
from tollway.record.sql import query


async def stands_behind_pooler(url: str) -> bool:
    """True when the backend's pid is not the one the greeting named: a pooler makes up its own.

    Raises DatabaseUnavailable.
    """
    try:
        connection = await asyncpg.connect(url, timeout=5, statement_cache_size=0)
        try:
            return bool(connection.get_server_pid() != await connection.fetchval(query("backend_pid")))
        finally:
            await connection.close()
    except UNREACHABLE as error:
        raise DatabaseUnavailable(str(error) or type(error).__name__) from error
