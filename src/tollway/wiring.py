"""The only place where objects are put together: what each kind of process is made of."""

import asyncio
import contextlib
import importlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from tollway.config import Settings
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.domain.ids import IdMaker
from tollway.hotstate.broadcast import Broadcast
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.outbound.webhooks import DeliverOptions, WebhookDeliverer
from tollway.record.agents import AgentRecord, publish_agents
from tollway.record.claims import Claims
from tollway.record.database import Database, DatabaseOptions
from tollway.record.journal import JournalRecord
from tollway.record.migrate import latest_version, schema_version
from tollway.record.pooler import stands_behind_pooler
from tollway.record.processes import leave_process, register_process
from tollway.record.server import running_url
from tollway.record.upkeep import Upkeep
from tollway.record.webhooks import WebhookRecord
from tollway.runtime.claimer import ClaimerOptions
from tollway.runtime.heartbeat import Heartbeat, HeartbeatOptions
from tollway.runtime.keeper import Keeper, KeeperOptions
from tollway.runtime.registry import Registry, registry
from tollway.runtime.run import RunServices
from tollway.runtime.steps import LlmDefaults, LlmSteps, TaskSteps
from tollway.runtime.tokens import WatchedTokens
from tollway.runtime.worker import Worker, WorkerServices, process_facts
from tollway.spend.prices import Prices
from tollway.telemetry.metrics import Metrics

EXIT_REPLACED = 75
LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Base:
    """What every process has: the record, the news, time, ids and its own counters."""

    settings: Settings
    database: Database
    broadcast: Broadcast
    clock: AnchoredClock
    ids: IdMaker
    metrics: Metrics


def database_url(settings: Settings) -> str:
    """Where the record is; for the embedded one, the server that `tollway up` runs on the data folder."""
    if not settings.database.embedded:
        return settings.database.url
    found = running_url(settings.database.data_dir)
    if found is None:
        raise ConfigError(
            "database.url",
            "embedded",
            f"no embedded PostgreSQL runs on {settings.database.data_dir}; start `tollway up` there, or name a database",
        )
    return found


async def database_options(settings: Settings, role: str) -> DatabaseOptions:
    """How to reach the record; finds out whether a transaction pooler stands before it. Raises DatabaseUnavailable."""
    url = database_url(settings)
    pooled = await stands_behind_pooler(url)
    return DatabaseOptions(url, settings.database.direct_url, pooled, application=f"tollway {role}")


@asynccontextmanager
async def base(settings: Settings, role: str) -> AsyncIterator[Base]:
    """Connected, and on the schema this code works with. Raises DatabaseUnavailable, ConfigError."""
    options = await database_options(settings, role)
    version, wanted = await schema_version(options.url), latest_version()
    if version < wanted:
        raise ConfigError("database.url", "(hidden)", f"is at schema {version} of {wanted}; run `tollway migrate`")
    clock = AnchoredClock()
    database = Database(options, clock)
    broadcast = Broadcast(options.direct_url or ("" if options.pooled else options.url))
    await database.start()
    await broadcast.start()
    try:
        yield Base(settings, database, broadcast, clock, IdMaker(clock), Metrics())
    finally:
        await broadcast.stop()
        await database.stop()


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


def stop_event() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def make_gateway(settings: Settings, clock: AnchoredClock) -> Gateway:
    """The LLM path. Raises ConfigError for a route that could never be called."""
    return Gateway(settings.routes, settings.providers, Prices(settings.prices), GatewayOptions(clock=clock))


async def run_worker(settings: Settings, modules: Sequence[str]) -> int:
    """One worker until SIGTERM; the exit code. Raises ConfigError, DatabaseUnavailable."""
    stop = stop_event()
    agents = load_agents(modules)
    async with base(settings, "worker") as parts, _gateway(settings, parts.clock) as gateway:
        await _publish(parts, agents)
        ttl_s = settings.worker.lease_ttl_s
        worker_id = await register_process(parts.database, "worker", ttl_s, {"claiming": False})
        lazy = Database(replace(parts.database.options, durable=False, connections_max=2), parts.clock)
        await lazy.start()
        worker = _make_worker(parts, agents, gateway, worker_id, lazy)
        names = [spec.name for spec in agents.all()]
        heartbeat = Heartbeat(
            replace(parts.database.options, connections_max=1),
            worker_id,
            HeartbeatOptions(settings.worker.heartbeat_s, settings.worker.loop_block_max_s),
            lambda: process_facts(worker, names, settings.worker.slots),
            lambda: _replaced(worker, stop),
        )
        heartbeat.start()
        await worker.start()
        heartbeat.soon()
        try:
            await stop.wait()
            heartbeat.stopping = True
            heartbeat.soon()
            await worker.stop(settings.worker.grace_s)
        finally:
            heartbeat.stop()
            with contextlib.suppress(DatabaseUnavailable):
                await leave_process(parts.database, worker_id)
            await lazy.stop()
        return EXIT_REPLACED if worker.abandoned else 0


async def run_keeper(settings: Settings) -> int:
    """One keeper until SIGTERM; the exit code. Raises ConfigError, DatabaseUnavailable."""
    stop = stop_event()
    async with base(settings, "keeper") as parts:
        ttl_s = settings.worker.lease_ttl_s
        keeper_id = await register_process(parts.database, "keeper", ttl_s)
        kept = settings.retention
        days = {"run": kept.runs_days, "step": kept.runs_days, "event": kept.events_days, "ledger": kept.ledger_days}
        look_every_s = min(LOOK_EVERY_S, settings.worker.lease_ttl_s / 4)
        keeper = Keeper(
            Upkeep(parts.database, keeper_id), parts.broadcast, parts.clock, KeeperOptions(look_every_s, days)
        )
        deliverer = WebhookDeliverer(
            WebhookRecord(parts.database),
            parts.broadcast,
            parts.clock,
            parts.metrics,
            DeliverOptions(keep_days=kept.runs_days),
        )
        heartbeat = Heartbeat(
            replace(parts.database.options, connections_max=1),
            keeper_id,
            HeartbeatOptions(settings.worker.heartbeat_s, settings.worker.loop_block_max_s),
            dict,
            stop.set,
        )
        heartbeat.start()
        await keeper.start()
        await deliverer.start()
        try:
            await stop.wait()
        finally:
            await keeper.stop()
            await deliverer.stop()
            heartbeat.stop()
            with contextlib.suppress(DatabaseUnavailable):
                await leave_process(parts.database, keeper_id)
    return 0


def _make_worker(parts: Base, agents: Registry, gateway: Gateway, worker_id: int, lazy: Database) -> Worker:
    settings = parts.settings
    runs = RunServices(
        LlmSteps(
            gateway, parts.ids, LlmDefaults(settings.llm.max_tokens_default, settings.llm.timeout_s), parts.metrics
        ),
        TaskSteps(parts.ids, parts.metrics),
        WatchedTokens(parts.broadcast),
        random.random,
    )
    services = WorkerServices(
        parts.database,
        Claims(parts.database, lazy, worker_id),
        JournalRecord(parts.database, worker_id),
        parts.broadcast,
        parts.clock,
        runs,
        parts.metrics,
    )
    shares = {name: settings.lanes[name].share for name in settings.worker.lanes}
    names = tuple(spec.name for spec in agents.all())
    options = ClaimerOptions(tuple(settings.worker.lanes), shares, settings.worker.slots, names)
    return Worker(worker_id, agents, options, services)


def _replaced(worker: Worker, stop: asyncio.Event) -> None:
    worker.abandon()
    stop.set()


@asynccontextmanager
async def _gateway(settings: Settings, clock: AnchoredClock) -> AsyncIterator[Gateway]:
    gateway = make_gateway(settings, clock)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


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
