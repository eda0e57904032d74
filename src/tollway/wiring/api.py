"""What an API process is made of."""

import os

from tollway.config import Settings
from tollway.hotstate.run_news import RunNews
from tollway.ingress.app import Api, create_app
from tollway.ingress.listening import listen
from tollway.ingress.server import ApiServer, ServerOptions
from tollway.ingress.services import ApiOptions, ApiServices
from tollway.outbound.sse import EventStreams
from tollway.record.accept import Accepts
from tollway.record.keys import ensure_admin_key
from tollway.record.reads import RunReads
from tollway.record.settings_sync import SettingsSync, SyncOptions
from tollway.record.shifts import ShiftBoard
from tollway.wiring.base import Base, base, settle_memory, stop_event

SHUTDOWN_S = 10


async def run_api(settings: Settings, workers_expected: int = 0) -> int:
    """One API process until SIGTERM; the exit code. Raises ConfigError, DatabaseUnavailable."""
    stop = stop_event()
    listener = listen(settings.server.host, settings.server.port)
    async with base(settings, "api") as parts:
        api = _make_api(parts, workers_expected)
        given = os.environ.get("TOLLWAY_ADMIN_KEY")
        if given:
            await ensure_admin_key(parts.database, given)
        settle_memory()
        await ApiServer(api, listener, ServerOptions(grace_s=SHUTDOWN_S)).run(stop)
    return 0


def _make_api(parts: Base, workers_expected: int) -> Api:
    settings = parts.settings
    run_news = RunNews(parts.broadcast)
    reads = RunReads(parts.database, on_flush=parts.metrics.flushes("read"))
    sync = SettingsSync(
        parts.database,
        parts.broadcast,
        parts.clock,
        SyncOptions(settings.worker.heartbeat_s, settings.worker.lease_ttl_s),
        facts=lambda: {"metrics": parts.metrics.snapshot()},
    )
    shifts = ShiftBoard(parts.database, parts.broadcast)
    sync.on_change(lambda snapshot: shifts.take(snapshot.shifts))
    options = ApiOptions(
        lanes=tuple(settings.lanes),
        tiers=settings.served_tiers,
        body_bytes_max=settings.server.body_bytes_max,
        json_depth_max=settings.server.json_depth_max,
        workers_expected=workers_expected,
        supervisor=os.environ.get("TOLLWAY_SUPERVISOR", ""),
        routes=settings.routes,
    )
    services = ApiServices(
        parts.database,
        Accepts(parts.database, parts.metrics.flushes("accept")),
        reads,
        sync,
        parts.broadcast,
        run_news,
        EventStreams(reads, run_news, parts.broadcast),
        parts.ids,
        parts.clock,
        parts.metrics,
        options,
    )
    return create_app(services)
