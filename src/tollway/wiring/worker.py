"""What a worker process is made of."""

import asyncio
import contextlib
import importlib
import os
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from tollway.config import Settings
from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.llm.governor import Governor
from tollway.queue.bulkheads import Bulkheads
from tollway.record.agents import AgentRecord, publish_agents
from tollway.record.budgets import BudgetBoard
from tollway.record.claims import Claims
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.processes import leave_process, register_process
from tollway.record.quotas import TokenBook
from tollway.record.shifts import ShiftBoard
from tollway.runtime.claimer import ClaimerOptions
from tollway.runtime.dependencies import Dependencies
from tollway.runtime.doors import DoorOptions, Doors, ProcessDoors
from tollway.runtime.heartbeat import Heartbeat, HeartbeatOptions
from tollway.runtime.isolation import Isolation, Scope, isolate_program
from tollway.runtime.registry import Registry, registry
from tollway.runtime.run import RunServices
from tollway.runtime.steps import LlmDefaults, LlmSteps
from tollway.runtime.tasks import TaskSteps
from tollway.runtime.tokens import WatchedTokens
from tollway.runtime.wire import RunWire
from tollway.runtime.worker import Worker, WorkerServices, process_facts
from tollway.spend.guard import BudgetGuard
from tollway.wiring.base import Base, base, settle_memory, stop_event
from tollway.wiring.budgets import budget_guard
from tollway.wiring.llm import LlmPath, llm_path
from tollway.wiring.wire import run_wire

EXIT_REPLACED = 75
ALONE_RUNS_MAX = 200


def load_agents(modules: Sequence[str]) -> Registry:
    """Import agent modules from the working directory, then PYTHONPATH. Raises ConfigError."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in modules:
        try:
            importlib.import_module(name)
        except ConfigError:
            raise
        except ModuleNotFoundError as error:
            remedy = f"no module {error.name!r} in {os.getcwd()} or on PYTHONPATH; check the name, or start elsewhere"
            raise ConfigError("--agents", name, remedy) from error
        except Exception as error:
            raise ConfigError("--agents", name, f"cannot be imported: {type(error).__name__}: {error}") from error
    return registry


async def run_worker(settings: Settings, modules: Sequence[str], config: Path | None = None) -> int:
    """One worker until SIGTERM; the exit code. Raises ConfigError, DatabaseUnavailable."""
    stop = stop_event()
    agents = load_agents(modules)
    async with _worker(settings, agents, stop) as crew:
        names = [spec.name for spec in agents.all()]
        await crew.claims.enter_classes(settings.worker.lanes, names)
        await _publish(crew.parts, agents)
        arguments = [part for module in modules for part in ("--agents", module)]
        arguments += ["--config", str(config)] if config is not None else []
        isolation = Isolation(
            crew.parts.database,
            crew.claims,
            crew.parts.broadcast,
            isolate_program(arguments),
            Scope(settings.worker.lanes, names),
        )
        crew.parts.metrics.slots.read(lambda: settings.worker.slots)
        await crew.worker.start()
        await isolation.start()
        crew.heartbeat.soon()
        settle_memory()
        await stop.wait()
        crew.heartbeat.stopping = True
        crew.heartbeat.soon()
        stopping = asyncio.get_running_loop().create_task(isolation.stop())
        await crew.worker.stop(settings.worker.grace_s)
        await stopping
    return EXIT_REPLACED if crew.worker.abandoned else 0


async def run_isolated(settings: Settings, modules: Sequence[str], run_id: UUID) -> int:
    """A process for a run that lost its workers; the exit code. Raises as `run_worker`.

    When it has ended, the next such run gets the process, one after another: a poisonous run takes a crowd of
    neighbours through its two lost workers, and a new process for each of them would take longer than their work.
    """
    stop = stop_event()
    agents = load_agents(modules)
    async with _worker(settings, agents, stop) as crew:
        crew.worker.begin_alone()
        loop = asyncio.get_running_loop()
        names = [spec.name for spec in agents.all()]
        working = loop.create_task(_one_by_one(crew, Scope(settings.worker.lanes, names), run_id, stop))
        told = loop.create_task(stop.wait())
        await asyncio.wait((working, told), return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        await crew.worker.stop(settings.worker.grace_s)
        await working
    return EXIT_REPLACED if crew.worker.abandoned else 0


async def _one_by_one(crew: "_Crew", scope: Scope, run_id: UUID, stop: asyncio.Event) -> None:
    waiting = [run_id]
    for _ in range(ALONE_RUNS_MAX):
        if not waiting or stop.is_set():
            return
        claim = await crew.claims.claim_alone(waiting[0])
        if claim is not None:  # else somebody else has it, or it has ended
            await crew.worker.run_alone(claim)
        waiting = await crew.claims.waiting_alone(scope.lanes, scope.agents, 1)


@dataclass(frozen=True, slots=True)
class _Crew:
    """A registered worker, beating, not yet claiming."""

    parts: Base
    worker: Worker
    claims: Claims
    heartbeat: Heartbeat


@asynccontextmanager
async def _worker(settings: Settings, agents: Registry, stop: asyncio.Event) -> AsyncIterator[_Crew]:
    async with (
        base(settings, "worker") as parts,
        _shifts(parts) as shifts,
        _budgets(parts) as budgets,
        _tokens(parts) as tokens,
        contextlib.nullcontext(budget_guard(parts)) as guard,
        llm_path(parts, shifts, tokens, guard) as path,
        run_wire(parts, path.governor) as wire,
    ):
        worker_id = await register_process(parts.database, "worker", settings.worker.lease_ttl_s, {"claiming": False})
        lazy = Database(replace(parts.database.options, durable=False, connections_max=2), parts.clock)
        await lazy.start()
        claims = Claims(parts.database, lazy, worker_id)
        gates = _make_gates(parts, agents, path.governor)
        claiming = _claimer_options(settings, agents, gates.doors)
        services = _worker_services(parts, path, wire, claims, gates.dependencies, guard)
        worker = Worker(worker_id, agents, claiming, services)
        heartbeat = Heartbeat(
            replace(parts.database.options, connections_max=1),
            worker_id,
            HeartbeatOptions(settings.worker.heartbeat_s, settings.worker.loop_block_max_s),
            lambda: {
                **process_facts(worker, claiming, parts.metrics),
                "routes": path.governor.board.facts(),
                **path.governor.board.fallback_facts(),
                "dependencies": gates.dependencies.facts(),
                "doors": gates.doors.facts(),
            },
            lambda: _replaced(worker, stop),
            lambda lag_s: _late(worker, parts, lag_s),
        )
        heartbeat.on_settings(shifts.version_seen)
        heartbeat.on_settings(budgets.version_seen)
        heartbeat.on_settings(tokens.version_seen)
        guard.start(lambda: worker_id, lambda: budgets.now, worker.settled)
        guard.changed(budgets.version)
        budgets.on_change(lambda: guard.changed(budgets.version))
        gates.doors.on_turn = heartbeat.soon
        gates.dependencies.board.start()
        heartbeat.start()
        try:
            yield _Crew(parts, worker, claims, heartbeat)
        finally:
            heartbeat.stop()
            gates.dependencies.board.stop()
            await guard.stop()
            with contextlib.suppress(DatabaseUnavailable):
                await leave_process(parts.database, worker_id)
            await lazy.stop()


def _worker_services(
    parts: Base, path: LlmPath, wire: RunWire, claims: Claims, dependencies: Dependencies, guard: BudgetGuard
) -> WorkerServices:
    settings = parts.settings
    runs = RunServices(
        LlmSteps(path.governor, parts.ids, LlmDefaults(settings.llm.max_tokens_default), parts.metrics),
        TaskSteps(parts.ids, parts.metrics, path.caches.tasks, dependencies),
        WatchedTokens(parts.broadcast),
        random.random,
        asyncio.get_running_loop(),
        wire,
    )
    return WorkerServices(
        parts.database,
        claims,
        JournalRecord(parts.database, claims.worker, lambda lanes: _tell_open(parts, lanes)),
        parts.broadcast,
        parts.clock,
        runs,
        parts.metrics,
        guard,
    )


def _claimer_options(settings: Settings, agents: Registry, doors: Doors) -> ClaimerOptions:
    shares = {name: settings.lanes[name].share for name in settings.worker.lanes}
    names = tuple(spec.name for spec in agents.all())
    return ClaimerOptions(
        tuple(settings.worker.lanes),
        shares,
        settings.worker.slots,
        names,
        doors,
        Bulkheads(settings.worker.agent_share_max, settings.worker.tenant_share_max),
        {name: settings.lanes[name].age_after_s for name in settings.worker.lanes},
    )


def _late(worker: Worker, parts: Base, lag_s: float) -> None:
    parts.metrics.loop_lag_seconds.observe(lag_s)
    worker.note_lag(lag_s)


@dataclass(frozen=True, slots=True)
class _Gates:
    """What may hold runs of a worker."""

    dependencies: Dependencies
    doors: ProcessDoors


def _make_gates(parts: Base, agents: Registry, governor: Governor) -> _Gates:
    settings, specs = parts.settings, agents.all()
    dependencies = Dependencies(settings.breaker, settings.dependencies, parts.broadcast, parts.clock, parts.metrics)
    options = DoorOptions(
        settings.worker.lanes,
        settings.llm.park_after_s,
        {spec.name: spec.requires for spec in specs if spec.requires},
        {spec.name: spec.lane for spec in specs},
    )
    return _Gates(dependencies, ProcessDoors(options, governor, dependencies.board, parts.clock))


def _tell_open(parts: Base, lanes: Sequence[str]) -> None:
    """Runs of these lanes may start now, here or elsewhere."""
    for lane in lanes:
        parts.broadcast.publish("queue", lane)


def _replaced(worker: Worker, stop: asyncio.Event) -> None:
    worker.abandon()
    stop.set()


@asynccontextmanager
async def _shifts(parts: Base) -> AsyncIterator[ShiftBoard]:
    shifts = ShiftBoard(parts.database, parts.broadcast)
    await shifts.start()
    try:
        yield shifts
    finally:
        await shifts.stop()


@asynccontextmanager
async def _budgets(parts: Base) -> AsyncIterator[BudgetBoard]:
    budgets = BudgetBoard(parts.database, parts.broadcast)
    await budgets.start()
    try:
        yield budgets
    finally:
        await budgets.stop()


@asynccontextmanager
async def _tokens(parts: Base) -> AsyncIterator[TokenBook]:
    tokens = TokenBook(parts.database, parts.broadcast, parts.clock)
    tokens.start()
    try:
        yield tokens
    finally:
        await tokens.stop()


async def _publish(parts: Base, agents: Registry) -> None:
    records = [
        AgentRecord(
            spec.name,
            spec.version,
            spec.lane,
            spec.tier,
            spec.input_schema(),
            spec.output_schema(),
            spec.timeout_s,
            spec.max_attempts,
            spec.requires,
            spec.priority_s,
        )
        for spec in agents.all()
    ]
    if records and await publish_agents(parts.database, records):
        parts.broadcast.publish("settings", "agents")
