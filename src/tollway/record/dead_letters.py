"""Dead letters: runs whose attempts are exhausted, grouped by what killed them, until replayed or discarded."""

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Discarded:
    """What became of letters to be discarded: taken off the list now; those that were off before; the rest are none."""

    now: frozenset[UUID]
    before: frozenset[UUID]


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


async def list_letters(
    database: Database, fingerprint: str, wanted: DeadFilter, before: UUID | None, limit: int
) -> list[dict[str, Any]]:
    """The letters of one group, newest run first, older than the cursor. Raises DatabaseUnavailable."""
    rows = await database.rows(
        "list_letters", wanted.tenant, fingerprint, wanted.agent, wanted.lane, wanted.code, before, limit
    )
    return [_letter(row) for row in rows]


async def count_letters(database: Database, wanted: DeadFilter) -> tuple[int, str]:
    """How many letters fit, and the snapshot they were counted in. Raises DatabaseUnavailable."""
    ((count, view),) = await database.rows("count_letters", *_filter(wanted))
    return count, view


async def list_dead_ids(database: Database, wanted: DeadFilter, view: str | None, limit: int) -> list[UUID]:
    """Runs of the dead letters that fit, oldest first; of a snapshot if one is given. Raises DatabaseUnavailable."""
    return [row[0] for row in await database.rows("list_dead_ids", *_filter(wanted), view, limit)]


async def discard_letters(database: Database, ids: Sequence[UUID], tenant: str | None, key_id: str) -> Discarded:
    """Take letters (of a tenant, if one is given) off the list without a replay. Raises DatabaseUnavailable."""
    async with database.connection() as connection, connection.transaction():
        await database.on(connection, "lock_ended_runs", list(ids))
        rows = await database.on(connection, "read_letters", list(ids))
        seen = [row for row in rows if tenant is None or row["tenant"] == tenant]
        off = [row["run_id"] for row in seen if row["replayed_as"] is not None or row["discarded_at"] is not None]
        on = [row["run_id"] for row in seen if row["replayed_as"] is None and row["discarded_at"] is None]
        done = await database.on(connection, "discard_letters", on, key_id)
    return Discarded(frozenset(UUID(int=row[0].int) for row in done), frozenset(UUID(int=run.int) for run in off))


def _letter(row: Any) -> dict[str, Any]:
    step = {name: row[f"step_{name}"] for name in ("n", "name", "kind", "state", "error")}
    return {
        "run_id": str(row["run_id"]),
        "tenant": row["tenant"],
        "agent": row["agent"],
        "lane": row["lane"],
        "code": row["code"],
        "message": row["message"],
        "created_at": None if row["created_at"] is None else rfc3339(row["created_at"]),
        "died_at": rfc3339(row["died_at"]),
        "attempts": row["attempt"],
        "steps": row["steps"],
        "cost_usd": row["cost_nano"] / 1e9,
        "cost_nano": row["cost_nano"],
        "failed_step": None if step["n"] is None else step,
        "journal": f"/v1/runs/{row['run_id']}/steps",
    }


def _filter(wanted: DeadFilter) -> tuple[str | None, ...]:
    return (wanted.tenant, wanted.fingerprint, wanted.agent, wanted.lane, wanted.code)
