"""Accepting runs: written down, with their place in the queue, before anyone is told so (P1).

Many requests share one statement and one commit; each awaits its own result. A flush in which some run has a
concurrency key takes a statement of its own, so that the others pay nothing for keys.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from tollway import failpoints
from tollway.domain.concurrency import CANCEL_RUNNING
from tollway.domain.errors import DatabaseUnavailable, Problem
from tollway.domain.words import ActorKind
from tollway.record.cancel import Cancellation
from tollway.record.concurrency import ConcurrencyKeys, Key
from tollway.record.database import Database
from tollway.record.group_commit import FlushOptions, GroupCommit

ACCEPT_PATIENCE_S = 4.0
REPEATS_WAITING_MAX = 5_000


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
    """What stands in the record: `run_id` is an earlier run's when its idempotency key was used before.

    `waits` says that the run waits for its concurrency key, `ended` that it was cancelled for it at once.
    """

    run_id: UUID
    replayed: bool
    waits: bool = False
    ended: bool = False


def moment(epoch_s: float | None) -> datetime | None:
    """Epoch seconds as the record takes them."""
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC)


def place_of(run: NewRun) -> int:
    """A run's place in its line, µs: the time it is due, less its head start. Delayed runs stand by when they open."""
    due = run.created_at + run.delay_s
    return int((due if run.delay_s > 0 else due - run.priority_s) * 1_000_000)


class Accepts:
    """The door to the record for new runs."""

    def __init__(
        self,
        database: Database,
        on_flush: Callable[[int, float], None] | None = None,
        on_cancelled: Callable[[Cancellation], None] | None = None,
    ) -> None:
        """`on_cancelled` hears of the runs that were cancelled for new ones of their concurrency keys."""
        self._database = database
        self._keys = ConcurrencyKeys(database)
        self._on_cancelled = on_cancelled
        self._commits: GroupCommit[NewRun, Accepted] = GroupCommit(
            self._write, FlushOptions(patience_s=ACCEPT_PATIENCE_S), on_flush
        )
        self._repeats: GroupCommit[tuple[NewRun, Problem], Accepted] = GroupCommit(
            self._look_back, FlushOptions(flights_max=1, patience_s=ACCEPT_PATIENCE_S)
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

    def repeat(self, run: NewRun, refusal: Problem) -> "asyncio.Future[Accepted]":
        """What a refused run's idempotency key made before, if it made anything; writes nothing.

        Raises the refusal if it made nothing, or too many wait to be looked up; else as `accept`.
        """
        if len(self._repeats) >= REPEATS_WAITING_MAX:
            raise refusal
        return self._repeats.put((run, refusal))

    async def drain(self) -> None:
        """Wait for what was handed in."""
        await self._commits.drain()
        await self._repeats.drain()

    async def _write(self, runs: Sequence[NewRun]) -> list[Accepted | Exception]:
        if failpoints.armed:
            failpoints.hit("accept.before")
        rows = await self._database.rows(accepting(runs), *run_columns(runs))
        if failpoints.armed:
            failpoints.hit("accept.after")
        standing = await self.stand(runs, rows)
        if len(rows) == len(runs) and not standing:
            return [Accepted(run.id, replayed=False) for run in runs]
        written = {row[0] for row in rows}
        known = await self._known([run for run in runs if run.id not in written and run.idempotency_key])
        return [standing.get(run.id) or self._verdict(run, written, known) for run in runs]

    async def stand(self, runs: Sequence[NewRun], rows: Sequence[Any]) -> dict[UUID, Accepted]:
        """Of runs that were written just now, those that wait for their concurrency key or ended for it.

        `rows` is what writing them returned. Others are cancelled for them first, where they ask for that.
        """
        keyed = [run for run in runs if run.concurrency_key is not None]
        if not keyed:
            return {}
        found = {row["id"]: row for row in rows}
        pressing = [run for run in keyed if run.concurrency_policy == CANCEL_RUNNING and run.delay_s <= 0]
        pressing = [run for run in pressing if run.id not in found or found[run.id]["gate"] == "key"]
        await self._settle(pressing)
        # the answer to an earlier copy of this write may have been lost, and who pressed moved others
        unsure = [run.id for run in keyed if pressing or run.id not in found]
        if unsure:
            found |= {row["id"]: row for row in await self._look(unsure)}
        return {
            UUID(int=run_id.int): Accepted(UUID(int=run_id.int), False, row["gate"] == "key", row["ended"])
            for run_id, row in found.items()
            if row["gate"] == "key" or row["ended"]
        }

    async def _settle(self, pressing: Sequence[NewRun]) -> None:
        """Have the runs cancelled whose place these take; what fails here the keeper does later."""
        by_asker: dict[str, list[Key]] = {}
        for run in pressing:
            by_asker.setdefault(run.key_id, []).append((run.tenant, run.concurrency_key or ""))
        for key_id, keys in by_asker.items():
            with suppress(DatabaseUnavailable):
                done = await self._keys.settle(keys, (ActorKind.KEY, key_id))
                if self._on_cancelled is not None:
                    self._on_cancelled(done)

    async def _look(self, run_ids: Sequence[UUID]) -> Sequence[Any]:
        """What became of runs that stand in the record; nothing of those that do not."""
        return await self._database.rows("find_standing", run_ids, min(run_ids), max(run_ids))

    async def _look_back(self, asked: Sequence[tuple[NewRun, Problem]]) -> list[Accepted | Exception]:
        known = await self._known([run for run, _ in asked])
        return [
            self._verdict(run, set(), known) if (run.tenant, run.idempotency_key) in known else refusal
            for run, refusal in asked
        ]

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


def accepting(runs: Sequence[NewRun]) -> str:
    """The name of the query that writes these runs."""
    return "accept_runs" if all(run.concurrency_key is None for run in runs) else "accept_keyed_runs"


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
