"""The LLM path of a process: gateway, guards, governor. The same in workers and in API processes, for the wire."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from tollway.config import Settings
from tollway.domain.clock import AnchoredClock
from tollway.domain.llm import Caller
from tollway.hotstate.postgres_capacity import PostgresCapacity
from tollway.llm.breakers.board import BreakerBoard
from tollway.llm.capacity.leases import Capacity, CapacityPlan
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.llm.governor import Governor, GovernorOptions
from tollway.llm.guards import Guards
from tollway.llm.providers.limits import counts_of
from tollway.llm.retries import RetryBudgets
from tollway.llm.shifts import shifted
from tollway.record.database import Database
from tollway.record.quotas import TokenBook
from tollway.record.shifts import ShiftBoard
from tollway.spend.budgets import Budgets
from tollway.spend.price_list import PriceList
from tollway.spend.prices import Prices
from tollway.telemetry.metrics import Metrics
from tollway.wiring.base import Base
from tollway.wiring.caches import Caches, caches

_PROCESS_MASK = (1 << 62) - 1


def make_gateway(settings: Settings, clock: AnchoredClock) -> Gateway:
    """The way to the providers. Raises ConfigError for a route that could never be called."""
    options = GatewayOptions(clock=clock, tiers=settings.tiers)
    return Gateway(settings.routes, settings.providers, make_prices(settings), options)


def make_prices(settings: Settings) -> Prices:
    """What models cost, by these settings."""
    return Prices(settings.prices, settings.spend)


def make_price_list(settings: Settings) -> PriceList:
    """The prices of all routes, for whoever wants to see them."""
    return PriceList(settings.routes, settings.providers, make_prices(settings), settings.llm.max_tokens_default)


@dataclass(frozen=True, slots=True)
class LlmPath:
    """What serves LLM calls in a process, and the caches that its tasks share."""

    governor: Governor
    caches: Caches


@asynccontextmanager
async def llm_path(parts: Base, shifts: ShiftBoard, tokens: TokenBook, budgets: Budgets) -> AsyncIterator[LlmPath]:
    """The LLM path, its guards at work; `tokens` hears what calls use, `budgets` pay. Raises ConfigError."""
    settings = parts.settings
    gateway = make_gateway(settings, parts.clock)
    breakers = BreakerBoard.of_routes(settings.routes, settings.breaker, parts.broadcast, parts.clock)
    lazy = Database(replace(parts.database.options, durable=False, connections_max=2), parts.clock)
    counts = {route.name: counts_of(settings.providers[route.provider].kind) for route in settings.routes}
    lanes = {name: settings.lanes[name].share for name in dict.fromkeys((*settings.worker.lanes, *settings.lanes))}
    plan = CapacityPlan(settings.routes, counts, lanes)
    capacity = Capacity(parts.ids.new().int & _PROCESS_MASK, PostgresCapacity(lazy), parts.broadcast, parts.clock, plan)
    guards = Guards(capacity, breakers, RetryBudgets(settings.llm.retry_share))

    def shift(caller: Caller, tier: str) -> str:
        return shifted(shifts.now, caller, tier) if shifts.now else tier

    async with caches(parts) as cached:
        await lazy.start(anchor=False)
        await gateway.start()
        breakers.start()
        await capacity.start()
        kept = cached.llm if settings.llm.cache == "exact" else None
        options = GovernorOptions(
            settings.llm, parts.clock, shift, kept, spent=tokens.spent, budgets=budgets, spend=settings.spend
        )
        governor = Governor(gateway, guards, parts.metrics, options)
        for route in settings.routes:
            _gauge(parts.metrics, governor, guards, route.name)
        try:
            yield LlmPath(governor, cached)
        finally:
            await capacity.stop()
            breakers.stop()
            await gateway.stop()
            await lazy.stop()


def _gauge(metrics: Metrics, governor: Governor, guards: Guards, route: str) -> None:
    limiter, breaker, meter = guards.capacity.limiter(route), guards.breakers.of(route), governor.board.meter(route)
    metrics.llm_waiting.read(lambda: limiter.waiting, route)
    metrics.llm_in_flight.read(lambda: meter.in_flight, route)
    metrics.breaker_open.read(lambda: float(breaker.state != "closed"), route)
