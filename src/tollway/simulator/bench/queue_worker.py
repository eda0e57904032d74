"""Claimers without agents: they claim a batch, end its runs, true up, and close empty lines, as a worker does.

Each has a connection for its claims and one for the rest, so that the server's CPU is told apart by process.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tollway.queue.floors import Floor
from tollway.record.claims import Claim, Claims, LineCosts
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.processes import register_process
from tollway.record.writes import Ending, Fact, RunWrite
from tollway.simulator.bench.queue_rig import AGENT, COST_NANO, LANE, QueueRig

BATCH = 20
_LEASE_TTL_S = 3600.0
_TRUE_UP_EVERY_S = 1.0
_EMPTY_FOR_S = 2.0
_PAUSE_S = 0.01


@dataclass(frozen=True)
class Backends:
    """The server's processes behind one claimer: of its claims, and of all else it does."""

    claiming: int
    ending: int


class QueueWorker:
    """One claimer of one class."""

    def __init__(self, lazy: Database, database: Database, worker: int, backends: Backends, agent: str) -> None:
        self.backends = backends
        self.done = 0
        self._claims = Claims(database, lazy, worker)
        self.record = JournalRecord(database, worker)
        self._actor = str(worker)
        self._agent = agent
        self._floor = Floor()
        self._costs: dict[tuple[str, str, str], LineCosts] = {}
        self._trued_at = time.monotonic()
        self._empty_since: dict[tuple[str, str], float] = {}

    @classmethod
    async def of(cls, rig: QueueRig, agent: str = AGENT) -> "QueueWorker":
        """A claimer on connections of its own."""
        lazy, database = await rig.database(durable=False), await rig.database()
        backends = Backends(await backend_of(lazy), await backend_of(database))
        worker = await register_process(database, "worker", _LEASE_TTL_S)
        return cls(lazy, database, worker, backends, agent)

    async def work(self, runs: int, until_s: float = float("inf"), per_s: float = 0.0) -> None:
        """Claim and end runs until there were so many or the moment has come (monotonic); `per_s` paces it."""
        began, stop_at = time.monotonic(), self.done + runs
        first = self.done
        while self.done < stop_at and (now := time.monotonic()) < until_s:
            if per_s and (ahead_s := (self.done - first) / per_s - (now - began)) > 0:
                await asyncio.sleep(min(ahead_s, max(0.0, until_s - now)))
                continue
            claims = await self.claim(min(BATCH, stop_at - self.done))
            if not claims:
                await asyncio.sleep(_PAUSE_S)
                continue
            await self._end(claims)
        await self._true_up()

    async def claim(self, wanted: int = BATCH) -> list[Claim]:
        """One claim, with the care for floors and empty lines that goes with it."""
        now = time.monotonic()
        floors = self._floor.at(now, [self._agent])
        claimed = await self._claims.claim(LANE, floors, wanted)
        ended = time.monotonic()
        self._floor.took(ended - now, ended, whole=not any(floors.values()))
        if len(claimed.claims) < wanted:
            self._floor.short()
        if claimed.low is not None:
            self._floor.saw(claimed.low)
            level = claimed.level
            if level is not None and not any(floors.values()) and self._floor.rose(level, now):
                await self._claims.raise_floor(LANE, {self._agent: level})
        await self._close(claimed.empty, now, at_once=claimed.more)
        return claimed.claims

    async def _end(self, claims: Sequence[Claim]) -> None:
        verdicts = await self.record.complete([self._ending(claim) for claim in claims])
        for claim, verdict in zip(claims, verdicts, strict=True):
            if verdict is not True:
                raise RuntimeError(f"the end of run {claim.run_id} was refused: {verdict}")
            line = self._costs.setdefault((claim.lane, claim.agent, claim.tenant), LineCosts())
            line.due += (COST_NANO - claim.est_nano) / claim.weight
            line.runs += 1
            line.cost_nano += COST_NANO
            self._empty_since.pop((claim.agent, claim.tenant), None)
        self.done += len(claims)
        if time.monotonic() - self._trued_at >= _TRUE_UP_EVERY_S:
            await self._true_up()

    def _ending(self, claim: Claim) -> Ending:
        now = datetime.now(UTC)
        fact = Fact("succeeded", now, "worker", self._actor, None)
        write = RunWrite(claim.run_id, claim.tenant, claim.fence, claim.next_seq, facts=[fact])
        return Ending(write, "succeeded", b'"done"', None, None, now)

    async def _true_up(self) -> None:
        self._trued_at = time.monotonic()
        costs, self._costs = self._costs, {}
        if costs:
            await self._claims.true_up(costs)

    async def _close(self, empty: Sequence[tuple[str, str]], now: float, *, at_once: bool) -> None:
        for line in empty:
            self._empty_since.setdefault(line, now)
        due = [line for line in empty if at_once or now - self._empty_since[line] >= _EMPTY_FOR_S]
        if due:
            await self._claims.mark_idle(LANE, sorted(due))
            for line in due:
                self._empty_since.pop(line, None)


async def backend_of(database: Database) -> int:
    """The server's process behind a pool of one connection."""
    async with database.connection() as connection:
        return int(connection.get_server_pid())
