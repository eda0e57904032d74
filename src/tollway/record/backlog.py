"""How much is in the queue: live runs counted by line and kind, in one pass over the table.

A `BacklogWatch` shares one count between all who ask, counts only when somebody asks, and spends at most a fiftieth of
the time on it: nobody waits for a count of a million runs every second, and an idle process asks nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import asyncpg

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.gates import Gate
from tollway.record.database import Database
from tollway.record.sql import query
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

INTERVAL_MIN_S = 1.0
CHEAP_S = 0.05
"""A count that takes no longer than this is made for each who asks what stands there now."""

INTERVAL_PER_READ = 50.0
STALE_AFTER_S = 5.0
_READS_KEPT = 3
_SLICE = 500
UNNAMED_GATE = "other"
_QUEUED, _RUNNING, _WAITING, _PARKED = range(4)
_BUDGET = Gate.BUDGET.value
_BROKE = 4
"""The state of a line whose money is spent: its runs wait for a budget, each as behind a gate."""

Key = TypeVar("Key")
Part = TypeVar("Part")
Line = tuple[str, str, str]
"""Lane, class (an agent) and tenant."""


@dataclass(slots=True)
class Count:
    """Live runs of a line, or of several: `gated` and `parked` are by kind of gate.

    `shut` would be runnable if their line were not shut (its tenant is paused, or at `max_running`); `gated` have not
    begun, `parked` and `waiting` have, and gave up their slot.
    """

    runnable: int = 0
    shut: int = 0
    running: int = 0
    waiting: int = 0
    gated: dict[str, int] = field(default_factory=dict)
    parked: dict[str, int] = field(default_factory=dict)

    @property
    def queued(self) -> int:
        """Runs in state `queued`: runnable or not."""
        return self.runnable + self.shut + sum(self.gated.values())

    @property
    def blocked(self) -> int:
        """Runs that hold no slot and could not take one."""
        return self.shut + self.waiting + sum(self.gated.values()) + sum(self.parked.values())

    @property
    def reasons(self) -> dict[str, int]:
        """The blocked, by what holds them: `shut`, `waiting`, or the kind of gate."""
        found = {"shut": self.shut, "waiting": self.waiting}
        for kinds in (self.gated, self.parked):
            for kind, runs in kinds.items():
                found[kind] = found.get(kind, 0) + runs
        return {reason: runs for reason, runs in found.items() if runs}

    def add(self, other: "Count") -> None:
        """Count these as well."""
        self.runnable += other.runnable
        self.shut += other.shut
        self.running += other.running
        self.waiting += other.waiting
        for mine, theirs in ((self.gated, other.gated), (self.parked, other.parked)):
            for kind, runs in theirs.items():
                mine[kind] = mine.get(kind, 0) + runs


@dataclass(frozen=True)
class Backlog:
    """The queue at a moment: `at` on the monotonic clock when the count began, `took_s` seconds for it.

    `costs` is what a run of a line cost lately, nano-dollars; a line that is not in it is not known to have cost any.
    """

    at: float
    took_s: float
    lines: Mapping[Line, Count]
    costs: Mapping[Line, int]
    _classes: Mapping[tuple[str, str], Count]
    _tenants: Mapping[str, list[Count]]

    @cached_property
    def lanes(self) -> Mapping[str, Count]:
        """By lane."""
        return _by(lambda key: key[0], self._classes.items())

    def of(self, lane: str | None = None, tenant: str | None = None) -> Count:
        """The whole, or what is of a lane, a tenant, or both."""
        if lane is None and tenant is None:
            return _sum(self.lanes.values())
        if tenant is None:
            return self.lanes.get(lane or "", Count())
        if lane is None:
            return _sum(self._tenants.get(tenant, ()))
        return _sum(count for line, count in self.lines.items() if line[0] == lane and line[2] == tenant)

    def classes(self, tenant: str | None = None) -> Mapping[tuple[str, str], Count]:
        """By lane and class, of all tenants or of one."""
        if tenant is None:
            return self._classes
        return _by(lambda line: line[:2], ((line, count) for line, count in self.lines.items() if line[2] == tenant))


async def read_backlog(database: Database, clock: Clock) -> Backlog:
    """Count the queue: about 0.4 s of one core for 1,000,000 runs. Raises DatabaseUnavailable."""
    began = clock.monotonic()
    async with database.connection() as connection, connection.transaction(readonly=True):
        await connection.fetch(query("prepare_backlog_read"))
        rows = await connection.fetch(query("read_backlog"))
        known = await connection.fetch(query("read_line_costs"))
    took_s = clock.monotonic() - began
    tally = _Tally()
    for work in (tally.count(rows), tally.price(known), tally.sum_up()):
        for _ in work:  # others get the loop: ten thousand lines take a while
            await asyncio.sleep(0)
    return Backlog(began, took_s, tally.lines, tally.costs, tally.classes, tally.tenants)


class BacklogWatch:
    """One count of the queue for all who ask in this process."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._latest: Backlog | None = None
        self._due_at = float("-inf")
        self._took: deque[float] = deque(maxlen=_READS_KEPT)
        self._reading: asyncio.Task[None] | None = None
        self._error = DatabaseUnavailable("the queue was not counted yet")

    @property
    def interval_s(self) -> float:
        """Seconds between counts at least: one, or fifty times what a count takes.

        Of the last few the quickest tells: the others waited for a connection or a core as well.
        """
        return max(INTERVAL_MIN_S, INTERVAL_PER_READ * min(self._took, default=0.0))

    @property
    def latest(self) -> Backlog | None:
        """The last count, if it is not too old to act on; asking has the next one made when it is due.

        Never waits. None: nobody asked lately, or the database cannot be reached.
        """
        now = self._clock.monotonic()
        if now >= self._due_at:
            self._begin()
        latest = self._latest
        if latest is None or now - latest.at > STALE_AFTER_S + self.interval_s + latest.took_s:
            return None
        return latest

    async def fresh(self) -> Backlog:
        """A count of now while one is cheap, else the last one until the next is due.

        Raises DatabaseUnavailable when that cannot be had.
        """
        asked_at = self._clock.monotonic()
        latest = self._latest
        cheap = min(self._took, default=0.0) <= CHEAP_S
        if not cheap and self._reading is None and asked_at < self._due_at and self.latest is not None:
            assert latest is not None
            return latest
        await asyncio.shield(self._begin())
        if cheap and self._latest is not None and self._latest.at < asked_at:  # it was under way before
            await asyncio.shield(self._begin())
        latest = self.latest
        if latest is None:
            raise self._error
        return latest

    async def stop(self) -> None:
        """Leave a count under way; a second stop is nothing."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _begin(self) -> "asyncio.Task[None]":
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read(), name="backlog")
        return self._reading

    async def _read(self) -> None:
        try:
            self._latest = await read_backlog(self._database, self._clock)
            self._took.append(self._latest.took_s)
            self._due_at = self._latest.at + self.interval_s
        except (DatabaseUnavailable, OSError) as error:
            self._due_at = self._clock.monotonic() + INTERVAL_MIN_S
            self._error = DatabaseUnavailable(str(error))
            log.warning("backlog.unreachable", error=str(error))
        finally:
            self._reading = None


class _Tally:
    """Puts the rows of a count together, in slices: each of its parts gives way after so many lines."""

    def __init__(self) -> None:
        self.lines: dict[Line, Count] = {}
        self.costs: dict[Line, int] = {}
        self.classes: dict[tuple[str, str], Count] = {}
        self.tenants: dict[str, list[Count]] = {}

    def count(self, rows: Iterable[asyncpg.Record]) -> Iterator[None]:
        """The lines' counts."""
        shut: list[tuple[Line, bool]] = []
        for lane, agent, state, gate, tenants, runs in rows:
            if runs is None:
                shut += [((lane, agent, tenant), state == _BROKE) for tenant in tenants]
                continue
            for at, (tenant, number) in enumerate(zip(tenants, runs, strict=True), 1):
                if at % _SLICE == 0:
                    yield
                line = (lane, agent, tenant)
                count = self.lines.get(line)
                if count is None:
                    count = self.lines[line] = Count()
                _add(count, state, gate, number)
            yield
        for line, broke in shut:
            count = self.lines.get(line)
            if count is None or not count.runnable:
                continue
            if broke:
                count.gated[_BUDGET] = count.gated.get(_BUDGET, 0) + count.runnable
            else:
                count.shut = count.runnable
            count.runnable = 0

    def price(self, rows: Iterable[asyncpg.Record]) -> Iterator[None]:
        """What a run of a line costs."""
        for lane, agent, tenants, costs in rows:
            for at, (tenant, cost) in enumerate(zip(tenants, costs, strict=True), 1):
                if at % _SLICE == 0:
                    yield
                self.costs[lane, agent, tenant] = cost
            yield

    def sum_up(self) -> Iterator[None]:
        """The counts by class, and those of each tenant."""
        for at, (line, count) in enumerate(self.lines.items(), 1):
            if at % _SLICE == 0:
                yield
            self.classes.setdefault(line[:2], Count()).add(count)
            self.tenants.setdefault(line[2], []).append(count)


def _add(count: Count, state: int, gate: str | None, runs: int) -> None:
    if state == _RUNNING:
        count.running += runs
    elif state == _WAITING:
        count.waiting += runs
    elif state == _PARKED:
        count.parked[gate or UNNAMED_GATE] = runs
    elif gate is None:
        count.runnable = runs
    else:
        count.gated[gate] = runs


def _by(key: Callable[[Part], Key], lines: Iterable[tuple[Part, Count]]) -> dict[Key, Count]:
    found: dict[Key, Count] = {}
    for line, count in lines:
        found.setdefault(key(line), Count()).add(count)
    return found


def _sum(counts: Iterable[Count]) -> Count:
    whole = Count()
    for count in counts:
        whole.add(count)
    return whole
