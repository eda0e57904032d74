"""Cancelling runs: at once when no worker holds them, by asking the worker when one does."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from tollway.domain.news import News
from tollway.domain.words import ActorKind, RunState
from tollway.record.database import Connection, Database
from tollway.record.sql import query

_PAUSES_S = (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What became of the asked for: ended here, or asked of their workers; the others had ended before.

    `left` are live runs whose rows somebody else kept locked all the while: ask again.
    """

    ended: frozenset[UUID]
    asked: frozenset[UUID]
    left: frozenset[UUID] = frozenset()


async def end_queued_runs(
    database: Database,
    ids: Sequence[UUID],
    state: RunState,
    actor: tuple[ActorKind, str],
    error: tuple[str, str] | None = None,
) -> list[UUID]:
    """End runs that no worker holds; returns those ended. `error` is (code, message). Raises DatabaseUnavailable."""
    code, message = error or (None, None)
    rows = await database.rows("end_queued_runs", list(ids), state.value, code, message, actor[0].value, actor[1])
    return [UUID(int=row[0].int) for row in rows]


async def cancel_runs(database: Database, ids: Sequence[UUID], key_id: str) -> Cancellation:
    """Cancel runs. Raises DatabaseUnavailable.

    No lock on a run is waited for, so that nobody can deadlock with it: what others hold is tried again, some times.
    """
    ended: set[UUID] = set()
    asked: set[UUID] = set()
    left = list(ids)
    for pause_s in _PAUSES_S:
        await asyncio.sleep(pause_s)
        async with database.connection() as connection, connection.transaction():
            free = [row[0] for row in await connection.fetch(query("lock_free_runs"), left)]
            done = await _cancel(connection, free, key_id)
        ended |= done.ended
        asked |= done.asked
        if len(free) == len(left):
            return Cancellation(frozenset(ended), frozenset(asked))
        live = await database.rows("find_live", [run_id for run_id in left if run_id not in ended | asked])
        left = [UUID(int=row[0].int) for row in live]
        if not left:
            break
    return Cancellation(frozenset(ended), frozenset(asked), frozenset(left))


async def _cancel(connection: Connection, ids: Sequence[UUID], key_id: str) -> Cancellation:
    """Cancel runs whose rows are locked: they cannot move between queue and worker meanwhile."""
    ended = await connection.fetch(
        query("end_queued_runs"), ids, RunState.CANCELLED.value, None, None, ActorKind.KEY.value, key_id
    )
    asked = await connection.fetch(query("request_cancel"), ids, f"{ActorKind.KEY}:{key_id}")
    return Cancellation(
        frozenset(UUID(int=row[0].int) for row in ended), frozenset(UUID(int=row[0].int) for row in asked)
    )


def tell_cancelled(news: News, done: Cancellation) -> None:
    """Tell workers which runs to end, and whoever follows a run that it has ended."""
    for run_id in done.asked:
        news.publish("cancel", str(run_id))
    for run_id in done.ended:
        news.publish("run", str(run_id))
