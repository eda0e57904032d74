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
    if not ids:
        return Ended([], frozenset())
    code, messages = (None, None) if error is None else (error[0], [error[1]] * len(ids))
    who = actor[0].value, actor[1]
    return _ended(
        await database.rows("end_queued_runs", list(ids), state.value, code, messages, *who, min(ids), max(ids))
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
    # All rows at once and in order, before any concurrency key: an end locks its row, then its key. What is locked cannot
    # move between queue and worker, and what comes only now is left alone.
    locked = {UUID(int=row[0].int) for row in await connection.fetch(query("lock_runs"), list(ids))}
    if not locked:
        return Cancellation(frozenset(), frozenset())
    there = [at for at, run_id in enumerate(ids) if run_id in locked]
    ids = [ids[at] for at in there]
    code, messages = (None, None) if error is None else (error[0], [error[1][at] for at in there])
    kind, who = actor[0].value, actor[1]
    told = [f"{kind}:{who}"] * len(ids) if asked_by is None else [asked_by[at] for at in there]
    told_to = ids, RunState.CANCELLED.value, code, messages, kind, who, min(ids), max(ids)
    ended = _ended(await connection.fetch(query("end_queued_runs"), *told_to))
    asked = await connection.fetch(query("request_cancel"), ids, told)
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
