"""Workers put together in the test's own process, on the real record and the simulated provider."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import pytest

import tollway.runtime.registry  # noqa: F401  the module, which the package's own names do not lead to
from governor_kit import guards
from record_kit import accept_all, new_run
from tollway.config import Breaker, Llm, Price, Provider, Route, Tier
from tollway.domain.clock import AnchoredClock
from tollway.domain.ids import IdMaker
from tollway.hotstate.answers import PostgresAnswers
from tollway.hotstate.broadcast import Broadcast
from tollway.llm.cache.answers import Kept, KeptResult
from tollway.llm.cache.exact import ExactCache
from tollway.llm.cache.memory import Memory
from tollway.llm.cache.shared import SharedAnswers
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.llm.governor import Governor, GovernorOptions
from tollway.record.claims import Claims
from tollway.record.database import Database, DatabaseOptions
from tollway.record.journal import JournalRecord
from tollway.record.processes import register_process
from tollway.record.upkeep import Upkeep
from tollway.runtime.claimer import ClaimerOptions
from tollway.runtime.dependencies import Dependencies
from tollway.runtime.doors import DoorOptions, ProcessDoors
from tollway.runtime.registry import Registry
from tollway.runtime.run import RunServices
from tollway.runtime.steps import LlmDefaults, LlmSteps
from tollway.runtime.tasks import TaskSteps
from tollway.runtime.tokens import WatchedTokens
from tollway.runtime.worker import Worker, WorkerServices
from tollway.simulator.provider import RunningSim
from tollway.spend.budgets import NoBudgets
from tollway.spend.prices import Prices
from tollway.telemetry.metrics import Metrics

LANES = ("interactive", "standard", "batch")
SHARES = {"interactive": 0.3, "standard": 0.2, "batch": 0.1}
SIM_MODELS: dict[str, dict[str, Any]] = {
    "fast": {"latency_s": 0.0},
    "slow": {"latency_s": 60.0},
    "brief": {"latency_s": 0.3},
    "drip": {"latency_s": 0.0, "tokens_per_s": 40.0, "output_tokens": 400},
    "halting": {"latency_s": 0.0, "tokens_per_s": 100.0, "output_tokens": 20},
    "cut": {"latency_s": 0.0, "tokens_per_s": 2000.0, "output_tokens": 400, "fault_rates": {"cut": 1.0}},
    "broken": {"latency_s": 0.0, "fault_rates": {"status_500": 1.0}},
}
"""The tiers of the tests, each served by a model of its name."""


@contextmanager
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """What `@tollway.agent` registers while this lasts, and nothing else."""
    agents = Registry()
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["tollway.runtime.registry"], "registry", agents)
        yield agents


@dataclass
class Crew:
    """One worker and what it works with. `crash` leaves the record as a killed process would."""

    worker: Worker
    id: int
    database: Database
    claims: Claims
    record: JournalRecord
    broadcast: Broadcast
    metrics: Metrics
    agents: Registry
    dependencies: Dependencies
    doors: ProcessDoors

    async def submit(self, agent: str, **given: Any) -> UUID:
        """Accept a run, as the API does, with its news; returns its id."""
        spec = self.agents.get(agent)
        assert spec is not None
        run = new_run(agent=agent, **{"max_attempts": spec.max_attempts, **given})
        await accept_all(self.database, [run])
        self.broadcast.publish("queue", run.lane)
        return run.id

    async def crash(self) -> None:
        """Write nothing more, and let the keeper take back what this worker held."""
        self.worker.abandon()
        await self.worker.stop(grace_s=5)
        await Upkeep(self.database, 0).reap(self.id)


@asynccontextmanager
async def crew(url: str, agents: Registry, sim: RunningSim, **given: Any) -> AsyncIterator[Crew]:
    """A started worker. Given `slots`, `lanes`, `shares`, `guarded`, `tiers`, `own`, `budgets`, `llm`, `started`."""
    clock = AnchoredClock()
    database, lazy = Database(DatabaseOptions(url), clock), Database(DatabaseOptions(url, durable=False), clock)
    broadcast = Broadcast(url)
    gateway = make_gateway(sim, clock, given.get("tiers"))
    await database.start()
    await lazy.start()
    await broadcast.start()
    await gateway.start()
    await until(lambda: broadcast.connected)
    worker_id = await register_process(database, "worker", 12.0)
    claims, record = Claims(database, lazy, worker_id), JournalRecord(database, worker_id)
    metrics, ids = Metrics(), IdMaker(clock)
    governor = Governor(
        gateway,
        given.get("guarded") or guards(),
        metrics,
        GovernorOptions(
            given.get("llm") or Llm(timeout_s=30),
            clock,
            cache=make_cache(Kept, lazy),
            budgets=given.get("budgets") or NoBudgets(),
        ),
    )
    dependencies = Dependencies(Breaker(open_s=0.5, ramp_s=0.5), given.get("own", {}), broadcast, clock, metrics)
    dependencies.board.start()
    lanes, specs = given.get("lanes", LANES), agents.all()
    requires = {spec.name: spec.requires for spec in specs if spec.requires}
    doors = ProcessDoors(
        DoorOptions(lanes, 30.0, requires, {spec.name: spec.lane for spec in specs}),
        governor,
        dependencies.board,
        clock,
    )
    runs = RunServices(
        LlmSteps(
            governor,
            ids,
            LlmDefaults(200),
            metrics,
        ),
        TaskSteps(ids, metrics, make_cache(KeptResult, lazy), dependencies),
        WatchedTokens(broadcast),
        random.random,
        asyncio.get_running_loop(),
    )
    options = ClaimerOptions(
        lanes,
        given.get("shares", SHARES),
        given.get("slots", 100),
        tuple(spec.name for spec in specs),
        given.get("doors", doors),
        **{name: given[name] for name in ("bulkheads", "age_after_s") if name in given},
    )
    budgets = given.get("budgets") or NoBudgets()
    services = WorkerServices(database, claims, record, broadcast, clock, runs, metrics, budgets)
    worker = Worker(worker_id, agents, options, services)
    if given.get("started", True):
        await worker.start()
    try:
        yield Crew(worker, worker_id, database, claims, record, broadcast, metrics, agents, dependencies, doors)
    finally:
        await worker.stop(grace_s=0)
        dependencies.board.stop()
        await gateway.stop()
        await broadcast.stop()
        await lazy.stop()
        await database.stop()


Kind = TypeVar("Kind", Kept, KeptResult)


def make_cache(
    kind: type[Kind], database: Database, ttl_s: float = 3600.0, *, single_flight: bool = True
) -> ExactCache[Kind]:
    """The cache of a process that has just begun, over the shared tier of the test's database."""
    shared = SharedAnswers(PostgresAnswers(database), database.clock)
    return ExactCache(kind, Memory(1 << 20), shared, database.clock, ttl_s, single_flight=single_flight)


def make_gateway(sim: RunningSim, clock: AnchoredClock, tiers: dict[str, Tier] | None = None) -> Gateway:
    """A gateway with a route for each of the tests' tiers."""
    price = Price(input_usd_per_mtok="0.15", output_usd_per_mtok="0.60")
    return Gateway(
        [Route(name=tier, tier=tier, provider="sim", model=tier) for tier in SIM_MODELS],
        {"sim": Provider(kind="openai", base_url=f"{sim.url}/v1")},
        Prices({f"sim/{tier}": price for tier in SIM_MODELS}),
        GatewayOptions(clock=clock, tiers=tiers or {}),
    )


async def until(fact: Callable[[], object], within_s: float = 20.0) -> None:
    """Return once the fact holds; fail when it does not within the time."""
    async with asyncio.timeout(within_s):
        while not fact():
            await asyncio.sleep(0.005)


async def until_true(ask: Callable[[], Awaitable[Any]], within_s: float = 20.0) -> Any:
    """Ask until the answer is true, and return it."""
    async with asyncio.timeout(within_s):
        while not (found := await ask()):
            await asyncio.sleep(0.01)
    return found


async def ended(admin: asyncpg.Connection, run_id: UUID, within_s: float = 20.0) -> asyncpg.Record:
    """The run's row, once it has ended."""
    return await until_true(
        lambda: admin.fetchrow("select * from run where id = $1 and state is not null", run_id), within_s
    )


async def steps_of(admin: asyncpg.Connection, run_id: UUID) -> list[tuple[str, str, str]]:
    """A run's journal: path, name and state of each step, in order."""
    rows = await admin.fetch("select path, name, state from step where run_id = $1 order by n", run_id)
    return [tuple(row) for row in rows]


async def ledger_of(admin: asyncpg.Connection, run_id: UUID) -> list[str]:
    """The kinds of a run's ledger entries, in the order of their calls."""
    rows = await admin.fetch("select kind from ledger where run_id = $1 order by call_id", run_id)
    return [row[0] for row in rows]
