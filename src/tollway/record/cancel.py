"""Cancelling runs: at once when no worker holds them, by asking the worker when one does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tollway.domain.news import News
from tollway.domain.words import ActorKind, RunState
from tollway.record.database import Connection, Database
from tollway.record.sql import query


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What became of the asked for: ended here, or asked of their workers; the others had ended before.

    `lanes` are those of runs that may start now because they waited for the concurrency key of one that ended.
    """

    ended: frozenset[UUID]
    asked: frozenset[UUID]
    lanes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ended:
    """Runs that were ended in the queue, and the lanes of those that inherit their concurrency keys."""

    ids: list[UUID]
    lanes: frozenset[str]


async def end_queued_runs(
    database: Database,
    ids: Sequence[UUID],
    state: RunState,
    actor: tuple[ActorKind, str],
    error: tuple[str, str] | None = None,
) -> Ended:
    """End runs that no worker holds. `error` is (code, message). Raises DatabaseUnavailable."""
    code, messages = (None, None) if error is None else (error[0], [error[1]] * len(ids))
    return _ended(
        await database.rows("end_queued_runs", list(ids), state.value, code, messages, actor[0].value, actor[1])
    )


async def cancel_runs(database: Database, ids: Sequence[UUID], key_id: str) -> Cancellation:
    """Cancel runs in one transaction. Raises DatabaseUnavailable."""
    async with database.connection() as connection, connection.transaction():
        return await cancel_in(connection, ids, (ActorKind.KEY, key_id))


async def cancel_in(
    connection: Connection,
    ids: Sequence[UUID],
    actor: tuple[ActorKind, str],
    *,
    error: tuple[str, Sequence[str]] | None = None,
    asked_by: Sequence[str] | None = None,
) -> Cancellation:
    """The same within a transaction. `error` is a code and a message for each run.

    `asked_by` is what each run's worker is told about who asked, by default the actor.
    """
    code, messages = (None, None) if error is None else (error[0], list(error[1]))
    kind, who = actor[0].value, actor[1]
    told = list(asked_by) if asked_by is not None else [f"{kind}:{who}"] * len(ids)
    # All rows at once and in order, before any concurrency key: an end locks its row, then its key. And what is locked
    # cannot move between queue and worker.
    await connection.fetch(query("lock_runs"), list(ids))
    ended = _ended(
        await connection.fetch(query("end_queued_runs"), list(ids), RunState.CANCELLED.value, code, messages, kind, who)
    )
    asked = await connection.fetch(query("request_cancel"), list(ids), told)
    return Cancellation(frozenset(ended.ids), frozenset(UUID(int=row[0].int) for row in asked), ended.lanes)


def tell_cancelled(news: News, done: Cancellation) -> None:
    """Tell workers which runs to end and where others may start, and whoever follows a run that it has ended."""
    for run_id in done.asked:
        news.publish("cancel", str(run_id))
    for run_id in done.ended:
        news.publish("run", str(run_id))
    for lane in done.lanes:
        news.publish("queue", lane)


def _ended(rows: Sequence[Any]) -> Ended:
    lanes = rows[0]["lanes"] if rows else None
    return Ended([UUID(int=row["id"].int) for row in rows], frozenset(lanes or ()))
