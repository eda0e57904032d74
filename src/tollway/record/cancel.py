"""Cancelling runs: at once when no worker holds them, by asking the worker when one does."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from tollway.domain.news import News
from tollway.domain.words import ActorKind, RunState
from tollway.record.database import Database
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

    No lock is waited for, so that nobody can deadlock with it: what others hold is tried again, some times.
    """
    ended: set[UUID] = set()
    asked: set[UUID] = set()
    left = list(ids)
    for pause_s in _PAUSES_S:
        await asyncio.sleep(pause_s)
        async with database.connection() as connection, connection.transaction():
            done = await connection.fetch(
                query("end_queued_runs"), left, RunState.CANCELLED.value, None, None, ActorKind.KEY.value, key_id
            )
            marked = await connection.fetch(query("request_cancel"), left, f"{ActorKind.KEY}:{key_id}")
        ended |= {UUID(int=row[0].int) for row in done}
        asked |= {UUID(int=row[0].int) for row in marked}
        if len(done) + len(marked) < len(left):
            live = await database.rows("find_live", [run_id for run_id in left if run_id not in ended | asked])
            left = [UUID(int=row[0].int) for row in live]
        else:
            left = []
        if not left:
            break
    return Cancellation(frozenset(ended), frozenset(asked), frozenset(left))


def tell_cancelled(news: News, done: Cancellation) -> None:
    """Tell workers which runs to end, and whoever follows a run that it has ended."""
    for run_id in done.asked:
        news.publish("cancel", str(run_id))
    for run_id in done.ended:
        news.publish("run", str(run_id))
