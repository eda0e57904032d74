"""Accepting runs: written down, with their place in the queue, before anyone is told so (P1).

Many requests share one statement and one commit; each awaits its own result.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from tollway import failpoints
from tollway.domain.errors import Problem
from tollway.record.database import Database
from tollway.record.group_commit import FlushOptions, GroupCommit

ACCEPT_PATIENCE_S = 4.0


class NewRun(msgspec.Struct, frozen=True, gc=False):
    """A run as it was asked for; times in epoch seconds, `input` and `metadata` as JSON text."""

    id: UUID
    tenant: str
    key_id: str
    agent: str
    version: str
    lane: str
    input: bytes
    metadata: str | None
    created_at: float
    priority_s: float
    delay_s: float
    deadline_at: float | None
    ttl_s: float | None
    max_attempts: int
    budget_nano: int | None
    concurrency_key: str | None
    concurrency_policy: str | None
    webhook_url: str | None
    webhook_secret_env: str | None
    replay_of: UUID | None
    predicted_start_at: float
    est_nano: int
    idempotency_key: str | None
    body_hash: bytes | None


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """What stands in the record: `run_id` is an earlier run's when its idempotency key was used before."""

    run_id: UUID
    replayed: bool


def moment(epoch_s: float | None) -> datetime | None:
    """Epoch seconds as the record takes them."""
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC)


def place_of(run: NewRun) -> int:
    """A run's place in its line, µs: the time it is due, less its head start. Delayed runs stand by when they open."""
    due = run.created_at + run.delay_s
    return int((due if run.delay_s > 0 else due - run.priority_s) * 1_000_000)


class Accepts:
    """The door to the record for new runs."""

    def __init__(self, database: Database, on_flush: Callable[[int, float], None] | None = None) -> None:
        self._database = database
        self._commits: GroupCommit[NewRun, Accepted] = GroupCommit(
            self._write, FlushOptions(patience_s=ACCEPT_PATIENCE_S), on_flush
        )

    def __len__(self) -> int:
        return len(self._commits)

    @property
    def wait_s(self) -> float:
        """How long a run handed in now would wait for its answer, about."""
        return self._commits.wait_s

    def accept(self, run: NewRun) -> "asyncio.Future[Accepted]":
        """Hand in a run; the future ends when it is durable.

        Raises Problem `idempotency_conflict`, or DatabaseUnavailable when the record could not be reached in time.
        """
        return self._commits.put(run)

    async def drain(self) -> None:
        """Wait for what was handed in."""
        await self._commits.drain()

    async def _write(self, runs: Sequence[NewRun]) -> list[Accepted | Exception]:
        if failpoints.armed:
            failpoints.hit("accept.before")
        rows = await self._database.rows("accept_runs", *run_columns(runs))
        if failpoints.armed:
            failpoints.hit("accept.after")
        if len(rows) == len(runs):
            return [Accepted(run.id, replayed=False) for run in runs]
        written = {row[0] for row in rows}
        known = await self._known([run for run in runs if run.id not in written and run.idempotency_key])
        return [self._verdict(run, written, known) for run in runs]

    async def _known(self, runs: Sequence[NewRun]) -> dict[tuple[str, str | None], tuple[bytes, UUID]]:
        if not runs:
            return {}
        rows = await self._database.rows(
            "find_idempotent", [run.tenant for run in runs], [run.idempotency_key for run in runs]
        )
        return {(row["tenant"], row["key"]): (row["body_hash"], row["run_id"]) for row in rows}

    @staticmethod
    def _verdict(
        run: NewRun, written: set[UUID], known: dict[tuple[str, str | None], tuple[bytes, UUID]]
    ) -> Accepted | Exception:
        if run.id in written or run.idempotency_key is None:
            return Accepted(run.id, replayed=False)
        body_hash, run_id = known.get((run.tenant, run.idempotency_key), (run.body_hash, run.id))
        if body_hash != run.body_hash:
            return Problem(
                "idempotency_conflict",
                f"Idempotency-Key {run.idempotency_key!r} was used with another body, for run {run_id}. "
                "Use a new key for a new request.",
                fields={"run_id": str(run_id)},
            )
        return Accepted(run_id, replayed=run_id != run.id)


def run_columns(runs: Sequence[NewRun]) -> tuple[list[object], ...]:
    """The runs as the parameters of `accept_runs`."""
    expires = [min((at for at in (run.deadline_at, _ttl_end(run)) if at is not None), default=None) for run in runs]
    return (
        [run.id for run in runs],
        [run.tenant for run in runs],
        [run.key_id for run in runs],
        [run.agent for run in runs],
        [run.version for run in runs],
        [run.lane for run in runs],
        [run.input for run in runs],
        [run.metadata for run in runs],
        [moment(run.created_at) for run in runs],
        [run.priority_s for run in runs],
        [run.delay_s for run in runs],
        [moment(run.deadline_at) for run in runs],
        [moment(at) for at in expires],
        [run.max_attempts for run in runs],
        [run.budget_nano for run in runs],
        [run.concurrency_key for run in runs],
        [run.concurrency_policy for run in runs],
        [run.webhook_url for run in runs],
        [run.webhook_secret_env for run in runs],
        [run.replay_of for run in runs],
        [moment(run.predicted_start_at) for run in runs],
        [place_of(run) for run in runs],
        [run.est_nano for run in runs],
        [run.idempotency_key for run in runs],
        [run.body_hash for run in runs],
        [f'{{"agent":"{run.agent}","version":"{run.version}","lane":"{run.lane}"}}' for run in runs],
    )


def _ttl_end(run: NewRun) -> float | None:
    return None if run.ttl_s is None else run.created_at + run.ttl_s
