"""Dead letters: runs whose attempts are exhausted, grouped by what killed them, waiting to be replayed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tollway.record.database import Database
from tollway.record.run_document import rfc3339


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters are meant; None is any."""

    tenant: str | None = None
    fingerprint: str | None = None
    agent: str | None = None
    lane: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class GroupCursor:
    """The last group of a page."""

    last_died_at: datetime
    fingerprint: str
    agent: str


async def list_dead_letters(
    database: Database, wanted: DeadFilter, after: GroupCursor | None, limit: int
) -> tuple[list[dict[str, Any]], GroupCursor | None]:
    """Groups, the latest death first, and the cursor of the last one. Raises DatabaseUnavailable."""
    cursor = (after.last_died_at, after.fingerprint, after.agent) if after else (None, None, None)
    rows = await database.rows("list_dead_letters", *_filter(wanted), *cursor, limit)
    items = [
        {
            "fingerprint": row["fingerprint"],
            "agent": row["agent"],
            "code": row["code"],
            "message": row["message"],
            "count": row["count"],
            "first_died_at": rfc3339(row["first_died_at"]),
            "last_died_at": rfc3339(row["last_died_at"]),
            "cost_usd": row["cost_nano"] / 1e9,
            "cost_nano": row["cost_nano"],
            "run_ids": [str(run_id) for run_id in row["examples"]],
        }
        for row in rows
    ]
    last = GroupCursor(rows[-1]["last_died_at"], rows[-1]["fingerprint"], rows[-1]["agent"]) if rows else None
    return items, last


async def list_dead_ids(database: Database, wanted: DeadFilter, limit: int) -> list[UUID]:
    """Runs of the dead letters that fit, oldest first. Raises DatabaseUnavailable."""
    return [row[0] for row in await database.rows("list_dead_ids", *_filter(wanted), limit)]


def _filter(wanted: DeadFilter) -> tuple[str | None, ...]:
    return (wanted.tenant, wanted.fingerprint, wanted.agent, wanted.lane, wanted.code)
