"""The leases of one process: its limiters, and the exchange with the other processes over the shared store.

While calls want a route it is exchanged about once a second, sooner when somebody misses its share; a route without
demand gives its lease back after a while, and then nothing is asked of the store at all. Out of the store's reach,
leases run out and nothing more is spent.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tollway.config import Route
from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.news import News
from tollway.hotstate.capacity import NEWS, CapacityStore
from tollway.llm.capacity.asking import LimiterOptions
from tollway.llm.capacity.costs import Counts, limited, limits_of
from tollway.llm.capacity.limiter import Limiter
from tollway.llm.capacity.open import OpenLimiter
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

_GATHER_S = 0.01
_NEWS_SPREAD_S = 0.02
_NEWS_EVERY_S = 0.2
_RETRY_FIRST_S = 0.1
_RETRY_MAX_S = 1.0
_LEAVE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """What is shared: the routes, how each route's vendor counts output (`max_tokens` unless said), lanes by weight."""

    routes: Sequence[Route]
    counts: Mapping[str, Counts] = field(default_factory=dict)
    lanes: Mapping[str, float] = field(default_factory=dict)
    chance: Callable[[], float] = random.random


class Capacity:
    """One process' end of the sharing. `process` is a number no other live process has."""

    def __init__(self, process: int, store: CapacityStore, news: News, clock: Clock, plan: CapacityPlan) -> None:
        self._process = process
        self._store = store
        self._news = news
        self._clock = clock
        self._chance = plan.chance
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._said: dict[str, float] = {}
        self._retry_s = _RETRY_FIRST_S
        self._reached = True
        self._open: dict[str, OpenLimiter] = {}
        self._limiters: dict[str, Limiter] = {}
        for route in plan.routes:
            limits = limits_of(route)
            if limited(limits):
                options = LimiterOptions(limits, plan.counts.get(route.name, "max_tokens"), plan.lanes)
                self._limiters[route.name] = Limiter(route.name, options, clock, self._wake.set)
            else:
                self._open[route.name] = OpenLimiter(route.name, clock)

    def limiter(self, route: str) -> Limiter | OpenLimiter:
        """The limiter of a route by its name. Raises KeyError."""
        return self._limiters.get(route) or self._open[route]

    def shown(self) -> list[dict[str, object]]:
        """All routes of this process for display, by name."""
        limiters: list[Limiter | OpenLimiter] = [*self._limiters.values(), *self._open.values()]
        return [limiter.shown() for limiter in sorted(limiters, key=lambda limiter: limiter.route)]

    async def start(self) -> None:
        """Begin to exchange; a second start is nothing."""
        if self._task is None and self._limiters:
            self._unsubscribe = self._news.subscribe(NEWS, self._heard)
            self._task = asyncio.get_running_loop().create_task(self._run(), name="capacity")

    async def stop(self) -> None:
        """Give all leases back; a second stop is nothing. What waits then waits for its deadline."""
        task, self._task = self._task, None
        if task is None:
            return
        if self._unsubscribe is not None:
            self._unsubscribe()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        leasing = [limiter for limiter in self._limiters.values() if limiter.leasing]
        if leasing:
            with contextlib.suppress(DatabaseUnavailable, TimeoutError):
                async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                    await self._exchange(leasing, leaving=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = self._clock.monotonic()
            due_at = min(limiter.due_at for limiter in self._limiters.values())
            if due_at > now:
                self._wake.clear()
                timer = loop.call_later(due_at - now, self._wake.set) if due_at < math.inf else None
                await self._wake.wait()
                if timer is not None:
                    timer.cancel()
                continue
            due = [limiter for limiter in self._limiters.values() if limiter.due_at <= now + _GATHER_S]
            try:
                await self._exchange(due)
            except DatabaseUnavailable as error:
                if self._reached:
                    log.warning("capacity.unreachable", error=str(error))
                self._reached = False
            except Exception as error:  # such as what another version wrote: callers of the other routes still wait
                log.failure("capacity.broken", error)
            else:
                if not self._reached:
                    log.info("capacity.reached")
                self._reached = True

    async def _exchange(self, limiters: list[Limiter], *, leaving: bool = False) -> None:
        """One exchange for some routes. Raises DatabaseUnavailable, or what broke it; then they try again later."""
        asked = self._clock.monotonic()
        limiters = sorted(limiters, key=lambda limiter: limiter.route)
        wants = [limiter.want(asked, leaving=leaving) for limiter in limiters]
        try:
            grants = await self._store.exchange(self._process, wants)
        except Exception:
            retry_at = self._clock.monotonic() + self._retry_s * (0.5 + self._chance())
            self._retry_s = min(_RETRY_MAX_S, self._retry_s * 2)
            for limiter, want in zip(limiters, wants, strict=True):
                limiter.unanswered(want, retry_at)
            raise
        self._retry_s = _RETRY_FIRST_S
        now = self._clock.monotonic()
        for limiter, want, grant in zip(limiters, wants, grants, strict=True):
            limiter.granted(want, grant, now, self._chance())
            if grant.news and (
                want.throttled_s is not None or now - self._said.get(want.route, -math.inf) >= _NEWS_EVERY_S
            ):
                self._said[want.route] = now
                self._news.publish(NEWS, f"{self._process} {want.route}")

    def _heard(self, message: str) -> None:
        process, _, route = message.partition(" ")
        limiter = self._limiters.get(route)
        if limiter is not None and process != str(self._process):
            limiter.news(self._clock.monotonic() + self._chance() * _NEWS_SPREAD_S)
