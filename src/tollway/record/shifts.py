"""Tier shifts on record, and in the memory of processes that serve calls."""

import json
from collections.abc import Callable, Sequence

import asyncpg

from tollway.domain.news import News
from tollway.domain.shifts import Shift
from tollway.record.database import Database
from tollway.record.settings_board import SettingsBoard


def shift_record(row: asyncpg.Record) -> Shift:
    """A row of `list_shifts` as a shift."""
    return Shift(row["from_tier"], row["to_tier"], row["tenant"], row["agent"], row["task_type"])


async def put_shifts(
    database: Database, shifts: Sequence[Shift], check: Callable[[tuple[Shift, ...]], None] | None = None
) -> int:
    """Replace all shifts; returns the settings' version. Raises DatabaseUnavailable.

    The tenants they name must be there. `check` is asked with those in force, while nobody else can change them; what
    it raises ends the change.
    """
    given = json.dumps([shift.document() for shift in shifts])
    async with database.connection() as connection, connection.transaction():
        await database.on(connection, "lock_settings")
        if check is not None:
            check(tuple(shift_record(row) for row in await database.on(connection, "list_shifts")))
        await database.on(connection, "clear_shifts")
        return int((await database.on(connection, "put_shifts", given))[0]["version"])


class ShiftBoard(SettingsBoard[tuple[Shift, ...]]):
    """The shifts in force, in memory, in their order."""

    def __init__(self, database: Database, news: News) -> None:
        super().__init__(database, news, "list_shifts", lambda rows: tuple(shift_record(row) for row in rows))
