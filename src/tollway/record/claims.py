"""Claiming runs for a worker, fair by cost, and the upkeep of the lines they stand in."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tollway import failpoints
from tollway.record.database import Database

LINES_MAX = 64
"""How many lines one claim looks at."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A run this worker holds until its fence is raised: what it is, and how far its history has come."""

    run_id: UUID
    fence: int
    next_seq: int
    errors: int
    lost: int
    started_at: datetime
    steps: int
    llm_calls: int
    agent: str
    tenant: str
    lane: str
    version: str
    input: bytes
    metadata: str | None
    created_at: datetime
    deadline_at: datetime | None
    max_attempts: int
    budget_nano: int | None
    est_nano: int
    key_id: str
    cancelled_by: str | None
    hooked: bool
    predicted_start_at: datetime | None = None

    @property
    def attempt(self) -> int:
        """1 + the earlier claims that ended in an error or a lost worker."""
        return 1 + self.errors + self.lost


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim brought: runs, lines found empty (class, tenant), the lowest vtime seen, the lines looked at."""

    claims: list[Claim]
    empty: list[tuple[str, str]]
    low: float | None
    lines: int


class Claims:
    """The claims of one worker (its process id, as registered).

    `lazy` is a database whose commits do not wait for the disk: a claim that a crash forgets is simply made again, and
    the fence keeps the forgotten holder out.
    """

    def __init__(self, database: Database, lazy: Database, worker: int) -> None:
        self._database = database
        self._lazy = lazy
        self._worker = worker
        self._number = 0

    async def claim(self, lane: str, floors: dict[str, float], wanted: int) -> Claimed:
        """Claim up to `wanted` runs of a lane, in the classes (agents) of `floors`. Raises DatabaseUnavailable."""
        if failpoints.armed:
            failpoints.hit("claim.before")
        self._number = (self._number + 1) & 0xFFFF
        rows = await self._lazy.rows(
            "claim_runs", self._worker, lane, list(floors), wanted, list(floors.values()), self._number, LINES_MAX
        )
        if failpoints.armed:
            failpoints.hit("claim.after")
        head = rows[0]
        return Claimed(
            [claim_from(row) for row in rows if row["run_id"] is not None],
            [(line[0], line[1]) for line in head["empty"] or ()],
            head["low"],
            head["lines"],
        )

    async def lanes_with_work(self, lanes: Sequence[str], agents: Sequence[str]) -> list[str]:
        """Of these lanes, those with something to claim."""
        return [row[0] for row in await self._database.rows("lanes_with_work", list(lanes), list(agents))]

    async def claim_alone(self, run_id: UUID) -> Claim | None:
        """Claim one run kept apart for a process of its own; None when somebody else has it or it has ended."""
        self._number = (self._number + 1) & 0xFFFF
        row = await self._database.row("claim_alone", self._worker, run_id, self._number)
        return None if row is None else claim_from(row)

    async def waiting_alone(self, lanes: Sequence[str], agents: Sequence[str], most: int) -> list[UUID]:
        """Runs of these lanes and agents that wait for a process of their own, oldest first."""
        return [row[0] for row in await self._database.rows("find_alone", list(lanes), list(agents), most)]

    async def mark_idle(self, lane: str, lines: Sequence[tuple[str, str]]) -> None:
        """Close lines that stand empty; what enters them opens them again."""
        classes, tenants = [line[0] for line in lines], [line[1] for line in lines]
        async with self._database.connection() as connection, connection.transaction():
            locked = await self._database.on(connection, "lock_lines", lane, classes, tenants)
            if locked:
                await self._database.on(
                    connection, "idle_lines", lane, [row[0] for row in locked], [row[1] for row in locked]
                )

    async def true_up(self, costs: dict[tuple[str, str, str], float]) -> None:
        """Add what runs cost beyond their estimate to their (lane, class, tenant) lines, nano-dollars."""
        keys = list(costs)
        await self._database.rows(
            "true_up", [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys], [costs[k] for k in keys]
        )

    async def raise_floor(self, lane: str, floors: dict[str, float]) -> None:
        """Remember how far service has come, so that a newcomer enters there."""
        await self._database.rows("raise_floor", lane, list(floors), list(floors.values()))


def claim_from(row: Any) -> Claim:
    """A claim from a row of `claim_runs` or `claim_alone`."""
    return Claim(*(row[name] for name in _CLAIM_COLUMNS))


_CLAIM_COLUMNS = (
    "run_id",
    "fence",
    "next_seq",
    "errors",
    "lost",
    "started_at",
    "steps",
    "llm_calls",
    "class",
    "tenant",
    "lane",
    "version",
    "input",
    "metadata",
    "created_at",
    "deadline_at",
    "max_attempts",
    "budget_nano",
    "est_nano",
    "key_id",
    "cancelled_by",
    "hooked",
    "predicted_start_at",
)
