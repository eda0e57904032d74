"""Cancelling runs: at once when no worker holds them, by asking the worker when one does."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tollway.domain.concurrency import CODE, Ousted, superseded
from tollway.domain.news import News
from tollway.domain.words import ActorKind, RunState
from tollway.record.database import Connection, Database
from tollway.record.sql import query

_PAUSES_S = (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What became of the asked for: ended here, or asked of their workers; the others had ended before.

    `left` are live runs whose rows somebody else kept locked all the while: ask again. `lanes` are those of runs that
    may start now because they waited for the concurrency key of one that ended.
    """

    ended: frozenset[UUID]
    asked: frozenset[UUID]
    left: frozenset[UUID] = frozenset()
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


async def end_cancelled_runs(database: Database, most: int) -> Ended:
    """End, at most so many, runs whose worker gave them back before it heard that somebody wants them cancelled.

    They end as that one's doing. Raises DatabaseUnavailable.
    """
    ids: list[UUID] = []
    lanes: set[str] = set()
    for row in await database.rows("find_cancelled", most):
        kind, who, by = read_asker(row["cancelled_by"])
        why = (CODE, superseded(by)) if by else None
        asked = [UUID(int=run_id.int) for run_id in row["ids"]]
        done = await end_queued_runs(database, asked, RunState.CANCELLED, (ActorKind(kind), who), why)
        ids += done.ids
        lanes |= done.lanes
    return Ended(ids, frozenset(lanes))


def read_asker(cancelled_by: str) -> tuple[str, str, str]:
    """Who asked to cancel a run, as it is kept with it: kind and id, and the run it goes for, empty for none."""
    kind, _, who = cancelled_by.partition(":")
    actor, _, by = who.partition(" for ")
    return kind, actor, by


async def cancel_runs(database: Database, ids: Sequence[UUID], key_id: str) -> Cancellation:
    """Cancel runs. Raises DatabaseUnavailable.

    No lock on a run is waited for, so that nobody can deadlock with it: what others hold is tried again, some times.
    """
    return await _cancel_free(database, ids, (ActorKind.KEY, key_id), {})


async def oust_runs(database: Database, out: Sequence[Ousted], actor: tuple[ActorKind, str]) -> Cancellation:
    """Cancel runs each of which goes for another of its concurrency key, in the same way."""
    return await _cancel_free(database, [one.id for one in out], actor, {one.id: one for one in out})


async def _cancel_free(
    database: Database, ids: Sequence[UUID], actor: tuple[ActorKind, str], out: Mapping[UUID, Ousted]
) -> Cancellation:
    ended: set[UUID] = set()
    asked: set[UUID] = set()
    lanes: set[str] = set()
    left = list(ids)
    for pause_s in _PAUSES_S:
        await asyncio.sleep(pause_s)
        async with database.connection() as connection, connection.transaction():
            free = [UUID(int=row[0].int) for row in await connection.fetch(query("lock_free_runs"), left)]
            if free:
                done = await _cancel(connection, free, actor, out)
                ended |= done.ended
                asked |= done.asked
                lanes |= done.lanes
        if len(free) == len(left):
            left = []
            break
        live = await database.rows("find_live", [run_id for run_id in left if run_id not in ended | asked])
        left = [UUID(int=row[0].int) for row in live]
        if not left:
            break
    return Cancellation(frozenset(ended), frozenset(asked), frozenset(left), frozenset(lanes))


async def _cancel(
    connection: Connection, ids: Sequence[UUID], actor: tuple[ActorKind, str], out: Mapping[UUID, Ousted]
) -> Cancellation:
    """Cancel runs whose rows are locked: they cannot move between queue and worker meanwhile.

    All are locked before any concurrency key, since who ends a run locks its row, then its key.
    """
    kind, who = actor[0].value, actor[1]
    code, messages = (CODE, [out[run_id].message for run_id in ids]) if out else (None, None)
    ended = _ended(
        await connection.fetch(
            query("end_queued_runs"), ids, RunState.CANCELLED.value, code, messages, kind, who, min(ids), max(ids)
        )
    )
    told = [f"{kind}:{who}" + (f" for {out[run_id].by}" if out else "") for run_id in ids]
    asked = await connection.fetch(query("request_cancel"), ids, told)
    return Cancellation(frozenset(ended.ids), frozenset(UUID(int=row[0].int) for row in asked), lanes=ended.lanes)


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
