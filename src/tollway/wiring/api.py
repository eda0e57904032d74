"""What an API process is made of."""

import math
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tollway.config import Settings
from tollway.domain.errors import ConfigError
from tollway.hotstate.run_news import RunNews
from tollway.ingress.app import Api, create_app
from tollway.ingress.listening import listen
from tollway.ingress.server import ApiServer, ServerOptions
from tollway.ingress.services import ApiOptions, ApiServices, LaneLimits, WireServices
from tollway.ingress.wire.catalogue import ModelCatalogue
from tollway.outbound.sse import EventStreams
from tollway.record.accept import Accepts
from tollway.record.budgets import BudgetBoard
from tollway.record.cancel import tell_cancelled
from tollway.record.keys import ensure_admin_key
from tollway.record.quotas import TokenBook
from tollway.record.reads import RunReads
from tollway.record.settings_sync import SettingsSync, SyncOptions
from tollway.record.shifts import ShiftBoard
from tollway.record.wire_calls import WireCalls
from tollway.spend.guard import BudgetGuard
from tollway.telemetry.logs import get_logger
from tollway.wiring.base import Base, base, lane_aims, settle_memory, stop_event
from tollway.wiring.budgets import budget_guard
from tollway.wiring.llm import llm_path, make_price_list
from tollway.wiring.wire import door_options

log = get_logger(__name__)

SHUTDOWN_S = 10


async def run_api(settings: Settings, workers_expected: int = 0, *, wire_only: bool = False) -> int:
    """One API process until SIGTERM; the exit code. Raises ConfigError, DatabaseUnavailable.

    With `wire_only` it serves calls to models alone, and gives their streams as long at the end as workers get.
    """
    stop = stop_event()
    listener = listen(settings.server.host, settings.server.port)
    async with base(settings, "api") as parts:
        shifts = ShiftBoard(parts.database, parts.broadcast)
        budgets = BudgetBoard(parts.database, parts.broadcast)
        tokens = TokenBook(parts.database, parts.broadcast, parts.clock, reads=True)
        guard = budget_guard(parts)
        async with _wire(parts, shifts, tokens, guard, needed=wire_only) as wire:
            options = _options(settings, workers_expected, wire_only=wire_only)
            api = _make_api(parts, shifts, tokens, wire, options, guard)
            api.services.sync.on_change(lambda snapshot: budgets.take(snapshot.budgets, snapshot.version))
            budgets.on_change(lambda: guard.changed(budgets.version))
            given = os.environ.get("TOLLWAY_ADMIN_KEY")
            if given:
                await ensure_admin_key(parts.database, given)
            settle_memory()
            grace_s = max(SHUTDOWN_S, math.ceil(settings.worker.grace_s)) if wire_only else SHUTDOWN_S
            await ApiServer(api, listener, ServerOptions(grace_s=grace_s)).run(stop)
    return 0


def _options(settings: Settings, workers_expected: int, *, wire_only: bool) -> ApiOptions:
    return ApiOptions(
        lanes=tuple(settings.lanes),
        tiers=settings.served_tiers,
        body_bytes_max=settings.server.body_bytes_max,
        json_depth_max=settings.server.json_depth_max,
        workers_expected=workers_expected,
        supervisor=os.environ.get("TOLLWAY_SUPERVISOR", ""),
        routes=settings.routes,
        wire_only=wire_only,
        lane_limits={name: LaneLimits(lane.max_queued, lane.max_wait_s) for name, lane in settings.lanes.items()},
        aims=lane_aims(settings),
        slots=settings.worker.slots,
    )


@asynccontextmanager
async def _wire(
    parts: Base, shifts: ShiftBoard, tokens: TokenBook, guard: BudgetGuard, *, needed: bool
) -> AsyncIterator[WireServices | None]:
    """The wire; None, with a warning, where the providers cannot be called from here, unless that is all it is for."""
    settings, metrics = parts.settings, parts.metrics
    async with AsyncExitStack() as stack:
        try:
            path = await stack.enter_async_context(llm_path(parts, shifts, tokens, guard))
        except ConfigError as error:
            if needed:
                raise
            log.warning("wire.off", key=error.key, remedy=error.remedy)
            yield None
            return
        calls = WireCalls(parts.database, metrics.flushes("wire_open"), metrics.flushes("wire_close"))
        yield WireServices(path.governor, calls, ModelCatalogue(settings.routes), door_options(settings))


def _make_api(
    parts: Base,
    shifts: ShiftBoard,
    tokens: TokenBook,
    wire: WireServices | None,
    options: ApiOptions,
    guard: BudgetGuard,
) -> Api:
    settings = parts.settings
    route_facts = dict if wire is None else wire.governor.board.facts
    fallback_facts = dict if wire is None else wire.governor.board.fallback_facts
    run_news = RunNews(parts.broadcast)
    reads = RunReads(parts.database, on_flush=parts.metrics.flushes("read"))
    sync = SettingsSync(
        parts.database,
        parts.broadcast,
        parts.clock,
        SyncOptions(settings.worker.heartbeat_s, settings.worker.lease_ttl_s),
        facts=lambda: {"metrics": parts.metrics.snapshot(), "routes": route_facts(), **fallback_facts()},
    )
    sync.on_change(lambda snapshot: shifts.take(snapshot.shifts))
    services = ApiServices(
        parts.database,
        Accepts(parts.database, parts.metrics.flushes("accept"), lambda done: tell_cancelled(parts.broadcast, done)),
        reads,
        sync,
        parts.broadcast,
        run_news,
        EventStreams(reads, run_news, parts.broadcast),
        parts.ids,
        parts.clock,
        parts.metrics,
        tokens,
        options,
        route_facts,
        wire,
        make_price_list(settings).shown,
        guard,
    )
    return create_app(services)
