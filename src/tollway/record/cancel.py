"""Cancelling runs: at once when no worker holds them, by asking the worker when one does."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from tollway.domain.news import News
from tollway.domain.words import ActorKind, RunState
from tollway.record.database import Database
from tollway.record.sql import query


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What became of the asked for: ended here, or asked of their workers; the others had ended before."""

    ended: frozenset[UUID]
    asked: frozenset[UUID]


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
    """Cancel runs in one transaction. Raises DatabaseUnavailable.

    A run that moved between queue and worker meanwhile is in neither set while it is live: ask again.
    """
    async with database.connection() as connection, connection.transaction():
        ended = await connection.fetch(
            query("end_queued_runs"), list(ids), RunState.CANCELLED.value, None, None, ActorKind.KEY.value, key_id
        )
        asked = await connection.fetch(query("request_cancel"), list(ids), f"{ActorKind.KEY}:{key_id}")
    return Cancellation(
        frozenset(UUID(int=row[0].int) for row in ended), frozenset(UUID(int=row[0].int) for row in asked)
    )


def tell_cancelled(news: News, done: Cancellation) -> None:
    """Tell workers which runs to end, and whoever follows a run that it has ended."""
    for run_id in done.asked:
        news.publish("cancel", str(run_id))
    for run_id in done.ended:
        news.publish("run", str(run_id))
