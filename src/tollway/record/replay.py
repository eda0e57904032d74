"""Replaying ended runs: new runs with the old ones' requests, and with their journals as far as is asked.

The new runs, the copied steps and the notes in the old runs' histories are one transaction; of two that replay the same
dead letter one wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from tollway.record.accept import NewRun, accepting, run_columns
from tollway.record.database import Connection, Database

INPUT_BYTES_MAX = 8 << 20
"""How much input is read at once, but for a single one that is larger."""


class Kept(Enum):
    """How much of the old journal the new run begins with."""

    NOTHING = "start"
    FINISHED = "failed_step"


@dataclass(frozen=True, slots=True)
class Replayable:
    """What a replay takes over; `state` is None while the run is live, `steps` is the length of its journal.

    `replayed_as` and `discarded_at` tell of its dead letter, if it is one.
    """

    id: UUID
    tenant: str
    agent: str
    lane: str
    state: str | None
    input: bytes
    metadata: str | None
    created_at: datetime
    priority_s: float
    deadline_at: datetime | None
    max_attempts: int
    budget_nano: int | None
    concurrency_key: str | None
    concurrency_policy: str | None
    webhook_url: str | None
    webhook_secret_env: str | None
    steps: int
    replayed_as: UUID | None
    discarded_at: datetime | None


@dataclass(frozen=True, slots=True)
class Replay:
    """A new run in place of an old one; `kept` is also the number of a step: what was finished before it is kept."""

    new: NewRun
    old: UUID
    kept: Kept | int = Kept.NOTHING


@dataclass(frozen=True, slots=True)
class Replayed:
    """Which old runs were replayed, and what writing the new ones returned, as `Accepts.stand` wants to see it."""

    olds: frozenset[UUID] = frozenset()
    rows: Sequence[Any] = ()


async def read_replayables(database: Database, ids: Sequence[UUID]) -> list[Replayable | None]:
    """The runs to be replayed, in order, None where there is none; as many of the first as fit into memory together.

    Raises DatabaseUnavailable.
    """
    rows = await database.rows("read_replayed", list(ids), INPUT_BYTES_MAX)
    return [None if row["id"] is None else Replayable(**dict(row)) for row in rows]


async def replay_runs(database: Database, replays: Sequence[Replay], *, letters: bool) -> Replayed:
    """Write the new runs and tell the old ones; returns the old ones replayed. Raises DatabaseUnavailable.

    With `letters` only those are replayed whose dead letter nobody has replayed or discarded. Then it is safe to
    repeat: what an earlier call with the same new runs did counts as done. A new run that ends at once for its
    concurrency key takes nothing over, and leaves the old one's dead letter.
    """
    if not replays:
        return Replayed()
    rows: Sequence[Any] = ()
    async with database.connection() as connection, connection.transaction():
        olds = [replay.old for replay in replays]
        # the lock keeps the event numbers of two replays apart, and what is asked next sees what the other one did
        ended = {row[0] for row in await database.on(connection, "lock_ended_runs", olds)}
        wanted = [replay for replay in replays if replay.old in ended]
        done: set[UUID] = set()
        if letters:
            found = {row["run_id"]: row for row in await database.on(connection, "read_letters", olds)}
            done = {one.old for one in wanted if one.old in found and found[one.old]["replayed_as"] == one.new.id}
            wanted = [one for one in wanted if one.old in found and _is_open(found[one.old])]
        if wanted:
            rows = await _write(database, connection, wanted)
    return Replayed(frozenset(done | {one.old for one in wanted}), rows)


async def _write(database: Database, connection: Connection, replays: Sequence[Replay]) -> Sequence[Any]:
    news = [one.new for one in replays]
    query = accepting(news)
    rows = await database.on(connection, query, *run_columns(news))
    live = {row["id"] for row in rows if query == "accept_runs" or not row["ended"]}
    replays = [one for one in replays if one.new.id in live]
    told = [one.old for one in replays], [one.new.id for one in replays]
    await database.on(connection, "tell_replayed", *told, news[0].key_id)
    kept = [one for one in replays if one.kept is not Kept.NOTHING]
    if kept:
        before = [one.kept if isinstance(one.kept, int) else None for one in kept]
        copied = await database.on(
            connection, "copy_steps", [one.old for one in kept], [one.new.id for one in kept], before
        )
        await database.on(connection, "start_journals", [row[0] for row in copied], [row[1] for row in copied])
    return rows


def _is_open(letter: Any) -> bool:
    return letter["replayed_as"] is None and letter["discarded_at"] is None
