"""Replaying ended runs: a new run with the old one's request, and with its journal up to a step if asked.

The new run, the copied steps and the note in the old run's history are one transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tollway.record.accept import NewRun, accepting, run_columns
from tollway.record.database import Database


@dataclass(frozen=True, slots=True)
class Replayable:
    """What a replay takes over; `state` is None while the run is live, `steps` is the length of its journal."""

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


async def read_replayable(database: Database, run_id: UUID) -> Replayable | None:
    """The run to be replayed, or None. Raises DatabaseUnavailable."""
    row = await database.row("read_replayed", run_id)
    return None if row is None else Replayable(**dict(row))


async def replay_run(database: Database, new: NewRun, old: UUID, from_step: int | None) -> Sequence[Any]:
    """Write the new run and tell the old one; returns what `Accepts.stand` wants to see. Raises DatabaseUnavailable.

    A new run that its concurrency key ends at once replays nothing, and the old one's dead letter stays.
    """
    async with database.connection() as connection, connection.transaction():
        rows = await database.on(connection, accepting([new]), *run_columns([new]))
        if new.concurrency_key is not None and rows[0]["ended"]:
            return rows
        if from_step is not None and from_step > 1:
            await database.on(connection, "copy_steps", old, new.id, from_step)
            await database.on(connection, "start_journal_at", new.id, from_step - 1)
        await database.on(connection, "tell_replayed", old, new.id, new.key_id)
    return rows
