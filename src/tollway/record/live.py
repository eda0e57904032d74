"""Live runs by a filter, counted and listed for bulk actions, which act on exactly what was counted."""

from typing import Any
from uuid import UUID

from tollway.record.database import Database
from tollway.record.reads import RunFilter, id_bounds
from tollway.record.run_document import LIVE_STATE_NAMES


async def count_live(database: Database, wanted: RunFilter) -> tuple[int, str]:
    """How many live runs fit, and the snapshot they were counted in. Raises DatabaseUnavailable."""
    if wanted.metadata:
        rows = await database.rows("count_live_runs_looked_into", *_columns(wanted), *_metadata(wanted))
    else:
        rows = await database.rows("count_live_runs", *_columns(wanted))
    ((count, view),) = rows
    return count, view


async def list_live(database: Database, wanted: RunFilter, view: str | None, limit: int) -> list[UUID]:
    """Ids of the live runs that fit, oldest first; of a snapshot only those that were counted in it, if one is given.

    Raises DatabaseUnavailable.
    """
    rows = await database.rows("list_counted_runs", *_columns(wanted), *_metadata(wanted), view, limit)
    return [row[0] for row in rows]


def _columns(wanted: RunFilter) -> tuple[Any, ...]:
    state = LIVE_STATE_NAMES.index(wanted.state) if wanted.state in LIVE_STATE_NAMES else None
    return (wanted.tenant, *id_bounds(wanted), wanted.agent, wanted.lane, state)


def _metadata(wanted: RunFilter) -> tuple[list[str], list[str]]:
    return [key for key, _ in wanted.metadata], [value for _, value in wanted.metadata]
