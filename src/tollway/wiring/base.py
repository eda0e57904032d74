"""What every kind of process has: the record, the news, time, ids, its own counters; and how it is told to stop."""

import asyncio
import contextlib
import gc
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tollway.config import Settings
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.domain.ids import IdMaker
from tollway.hotstate.broadcast import Broadcast
from tollway.queue.scaling import LaneAim
from tollway.record.database import Database, DatabaseOptions
from tollway.record.migrate import latest_version, schema_version
from tollway.record.pooler import stands_behind_pooler
from tollway.record.server import running_url
from tollway.telemetry.metrics import Metrics

ANCHOR_EVERY_S = 60.0
GC_THRESHOLDS = (50_000, 20, 50)


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
            f"no embedded PostgreSQL runs on {settings.database.data_dir}; start `tollway up`, or name a database",
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
    anchoring = asyncio.get_running_loop().create_task(_stay_anchored(database), name="clock")
    try:
        yield Base(settings, database, broadcast, clock, IdMaker(clock), Metrics())
    finally:
        anchoring.cancel()
        await broadcast.stop()
        await database.stop()


def lane_aims(settings: Settings) -> dict[str, LaneAim]:
    """What the scaling signal is to reach in each lane."""
    return {name: LaneAim(lane.share, lane.target_wait_s) for name, lane in settings.lanes.items()}


async def _stay_anchored(database: Database) -> None:
    """Follow the database's clock: this machine's drifts, and ids and deadlines are told by the database's."""
    while True:
        await asyncio.sleep(ANCHOR_EVERY_S * random.uniform(0.9, 1.1))
        with contextlib.suppress(DatabaseUnavailable):
            await database.anchor()


def settle_memory() -> None:
    """Call when a process has started: what lives as long as it is never looked at again by the collector.

    Requests and runs are freed by reference counts; the rare cycle may wait for a larger generation.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def stop_event() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
