"""Claiming runs for a worker, fair by cost, and the upkeep of the lines they stand in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tollway import failpoints
from tollway.record.database import Database

LINES_MAX = 64
"""How many lines one claim looks at."""

OLDEST_LINES = 16
"""How many lines of each agent are looked at for the oldest waiting run."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A run this worker holds until its fence is raised: what it is, and how far its history has come.

    Its line was charged `est_nano` over `weight`, the line's part of `tenant_weight`; `place` is its place there (µs
    since the epoch); `capped` says that its tenant has a `max_running`, so that lines may be full until it ends.
    """

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
    weight: float
    tenant_weight: float
    place: int
    capped: bool
    predicted_start_at: datetime | None = None

    @property
    def attempt(self) -> int:
        """1 + the earlier claims that ended in an error or a lost worker."""
        return 1 + self.errors + self.lost


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim brought: runs, lines found empty (class, tenant), the lowest vtime seen, the lines looked at.

    `level` is where the service of these lines stands: the lowest vtime of those not left behind the floor.
    `more` says of a claim that fell short that there may be more: open lines it did not look at, or behind a line's
    part of the claim; `filled` names the capped tenants that have no room left now: their lines want turning.
    """

    claims: list[Claim]
    empty: list[tuple[str, str]]
    low: float | None
    lines: int
    more: bool = False
    filled: Sequence[str] = ()
    level: float | None = None


@dataclass(frozen=True, slots=True)
class ClaimBounds:
    """The most runs a claim may bring: by agent, by tenant (0 leaves its lines out), and of any other tenant.

    An agent that is not named is not bounded, and nor is any other tenant by None.
    """

    agents: Mapping[str, int] = field(default_factory=dict)
    tenants: Mapping[str, int] = field(default_factory=dict)
    other_tenant: int | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """Where an idle worker finds work: lanes with some; whether more than one tenant has keys or runs."""

    lanes: list[str]
    shared: bool


@dataclass(slots=True)
class LineCosts:
    """What a line's runs cost: `due` beyond their charge, over the weight; `cost_nano` of the `runs` that ended."""

    due: float = 0.0
    runs: int = 0
    cost_nano: float = 0.0


UNBOUNDED = ClaimBounds()
_ANY = 2**31 - 1


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

    @property
    def worker(self) -> int:
        """Whose claims they are: its process id."""
        return self._worker

    async def claim(self, lane: str, floors: dict[str, float], wanted: int, bounds: ClaimBounds = UNBOUNDED) -> Claimed:
        """Claim up to `wanted` runs of a lane, in the classes (agents, one at least) of `floors`, within the bounds.

        Raises DatabaseUnavailable.
        """
        if failpoints.armed:
            failpoints.hit("claim.before")
        self._number = (self._number + 1) & 0xFFFF
        rows = await self._lazy.rows(
            "claim_runs",
            self._worker,
            lane,
            list(floors),
            wanted,
            list(floors.values()),
            self._number,
            LINES_MAX,
            *_bound_columns(bounds, floors, wanted),
        )
        if failpoints.armed:
            failpoints.hit("claim.after")
        head = rows[0]
        return Claimed(
            [claim_from(row) for row in rows if row["run_id"] is not None],
            [(line[0], line[1]) for line in head["empty"] or ()],
            head["low"],
            head["lines"],
            bool(head["more"]),
            head["filled"] or (),
            head["level"],
        )

    async def look_for_work(self, lanes: Sequence[str], agents: Sequence[str]) -> Work:
        """Where these lanes have something to claim for these agents. Raises DatabaseUnavailable."""
        row = await self._database.row("look_for_work", list(lanes), list(agents))
        return Work(list(row["lanes"]), bool(row["shared"])) if row is not None else Work([], False)

    async def oldest_at(self, lane: str, agents: Sequence[str]) -> float | None:
        """When the oldest run at the heads of a lane's least served lines was due, epoch seconds; None: none waits."""
        place = await self._database.value("oldest_place", lane, list(agents), OLDEST_LINES)
        return None if place is None else place / 1e6

    async def enter_classes(self, lanes: Sequence[str], agents: Sequence[str]) -> None:
        """Let agents that nobody served before enter where service stands, at best before their runs are accepted."""
        await self._database.rows("enter_classes", list(lanes), list(agents))

    async def turn_capped(self, tenants: Sequence[str]) -> list[str]:
        """Bring the lines of capped tenants in step with their room; returns the lanes that opened."""
        return [row["opened"] for row in await self._lazy.rows("turn_capped", sorted(set(tenants)))]

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

    async def true_up(self, costs: Mapping[tuple[str, str, str], LineCosts]) -> None:
        """Tell lines, by (lane, class, tenant), what their runs really cost. Raises DatabaseUnavailable."""
        keys = sorted(costs)  # rows are locked in order
        told = [costs[key] for key in keys]
        await self._database.rows(
            "true_up",
            [key[0] for key in keys],
            [key[1] for key in keys],
            [key[2] for key in keys],
            [line.due for line in told],
            [line.runs for line in told],
            [float(line.cost_nano) for line in told],
        )

    async def raise_floor(self, lane: str, floors: dict[str, float]) -> None:
        """Remember how far service has come, so that a newcomer enters there."""
        classes = sorted(floors)
        await self._database.rows("raise_floor", lane, classes, [floors[name] for name in classes])


def _bound_columns(bounds: ClaimBounds, classes: Iterable[str], wanted: int) -> tuple[Any, ...]:
    """The bounds as parameters; null where none binds, for the statement then does without."""
    by_class = [most if (most := bounds.agents.get(name)) is not None and most < wanted else None for name in classes]
    full = [tenant for tenant, most in bounds.tenants.items() if most <= 0]
    near = {tenant: most if most < wanted else _ANY for tenant, most in bounds.tenants.items() if most > 0}
    other = _ANY if bounds.other_tenant is None or bounds.other_tenant >= wanted else bounds.other_tenant
    bound = other < _ANY or any(most < _ANY for most in near.values())
    return (
        by_class if any(most is not None for most in by_class) else None,
        full,
        list(near) if bound else [],
        list(near.values()) if bound else [],
        other if bound else None,
    )


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
    "weight",
    "tenant_weight",
    "place",
    "capped",
    "predicted_start_at",
)
