"""Many processes that share a provider's limits, in virtual time: real limiters, real sharing, a true token bucket.

What stands in for Postgres runs the very functions that the store in Postgres runs, under the same rules: an exchange
is atomic, takes a few milliseconds, and may fail; news takes a while, and may be lost.
"""

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from tollway.config import Route
from tollway.domain.errors import DatabaseUnavailable, LlmError
from tollway.hotstate.allotment import exchange
from tollway.hotstate.capacity import Grant, Want
from tollway.hotstate.route_state import Lease, RouteState, new_state
from tollway.llm.capacity.costs import Cost, Flow
from tollway.llm.capacity.leases import Capacity, CapacityPlan
from tollway.llm.capacity.limiter import Limiter
from tollway.simulator.buckets import Charge, Limits, Rates

ROUTE = "route"
EPOCH = 1_800_000_000.0
LANES = {"interactive": 0.3, "standard": 0.2, "batch": 0.1}


class _Selector(selectors.DefaultSelector):
    """Never waits: it moves the loop's time on instead."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen any more")
        self.loop.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when all have to wait."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = 1000.0
        super().__init__(selector)
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Virtual seconds."""
        return self.now

    def monotonic(self) -> float:
        """Implements `Clock`."""
        return self.now


class VirtualClock:
    """The loop's time; `day_s` says how far into the UTC day it began."""

    def __init__(self, loop: VirtualLoop, day_s: float = 40_000.0) -> None:
        self._loop = loop
        self._epoch = EPOCH // 86_400 * 86_400 + day_s - loop.now

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._epoch + self._loop.now

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self._loop.now


def virtually(main: Callable[["Town"], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a story in virtual time, to its end; the options are those of `Setting`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:

        async def story() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            town = Town(loop, Setting(**options))
            try:
                await main(town)
            finally:
                for process in list(town.processes):
                    process.kill()
                await asyncio.sleep(0)

        runner.run(story())


class MemoryStore:
    """A `CapacityStore` of the test's: `lose` makes it forget all leases, as a crash of the server does."""

    def __init__(self, town: "Town") -> None:
        self._town = town
        self.states: dict[str, RouteState] = {}
        self.leases: dict[str, dict[int, Lease]] = {}
        self.known: set[str] = set()
        self.exchanges = 0
        self.reachable = True
        self.broken: Exception | None = None

    def lose(self) -> None:
        """A crash: the leases are gone."""
        self.states.clear()
        self.leases.clear()

    async def exchange(self, process: int, wants: list[Want]) -> list[Grant]:
        """As the store in Postgres."""
        await asyncio.sleep(self._town.random.uniform(0.001, 0.004))
        if not self.reachable:
            raise DatabaseUnavailable("cut off")
        if self.broken is not None:
            raise self.broken
        self.exchanges += 1
        now = self._town.clock.now()
        grants = []
        for want in wants:
            if want.route not in self.states:
                self.states[want.route] = new_state(want, now, fresh=want.route not in self.known)
                self.known.add(want.route)
            leases = self.leases.setdefault(want.route, {})
            lease, grant = exchange(self.states[want.route], leases, process, want, now)
            for other in [number for number, held in leases.items() if held.until <= now or number == process]:
                del leases[other]
            if lease is not None:
                leases[process] = lease
            grants.append(grant)
            self._town.check(want, leases, now)
        await asyncio.sleep(self._town.random.uniform(0.001, 0.004))
        return grants


class MemoryNews:
    """News that takes a while and may be lost."""

    def __init__(self, town: "Town", lost: float) -> None:
        self._town = town
        self._lost = lost
        self._callbacks: list[Callable[[str], None]] = []

    def publish(self, channel: str, message: str) -> None:
        """Tell every process."""
        loop = asyncio.get_running_loop()
        for callback in list(self._callbacks):
            if self._town.random.random() >= self._lost:
                loop.call_later(self._town.random.uniform(0.008, 0.02), callback, message)

    def subscribe(self, channel: str, callback: Callable[[str], None]) -> Callable[[], None]:
        """Hear of it."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)


@dataclass
class Seen:
    """One call as the vendor saw it."""

    at: float
    process: int
    flow: Flow
    tokens: int
    admitted: bool


@dataclass
class Load:
    """What a client asks: tokens in and out, drawn between bounds; `estimate` is how far its input estimate is off."""

    input_tokens: tuple[int, int] = (100, 100)
    max_tokens: tuple[int, int] = (100, 100)
    estimate: float = 1.0
    patience_s: float = 600.0


@dataclass
class Process:
    """One process of the town."""

    number: int
    town: "Town"
    capacity: Capacity
    clients: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def limiter(self) -> Limiter:
        """The limiter of the route."""
        found = self.capacity.limiter(ROUTE)
        assert isinstance(found, Limiter)
        return found

    def flood(self, flow: Flow, clients: int, load: Load | None = None) -> None:
        """So many clients that each ask again as soon as they are answered."""
        for _ in range(clients):
            task = asyncio.get_running_loop().create_task(self._client(flow, load or Load()))
            self.clients.append(task)

    async def _client(self, flow: Flow, load: Load) -> None:
        while True:
            try:
                await self.town.call(self, flow, load)
            except LlmError as error:
                self.town.errors.append(error)
                await asyncio.sleep(0.1)

    def quieten(self) -> None:
        """The clients go away."""
        clients, self.clients = self.clients, []
        for client in clients:
            client.cancel()

    def kill(self) -> None:
        """The end, without a word to anybody."""
        self.quieten()
        if self.capacity._task is not None:
            self.capacity._task.cancel()
        if self in self.town.processes:
            self.town.processes.remove(self)
        self.town.news._callbacks = [c for c in self.town.news._callbacks if c != self.capacity._heard]


@dataclass
class Setting:
    """Of a story: the route's limits, the depth of the true buckets, what news is lost, when in the day it begins."""

    limits: Mapping[str, Any]
    depth_s: float = 1.0
    lost_news: float = 0.0
    seed: int = 0
    latency_s: float = 0.3
    day_s: float = 40_000.0


class Town:
    """The provider with its true limits, the store, the news, the processes, and what the provider saw."""

    def __init__(self, loop: VirtualLoop, setting: Setting) -> None:
        limits = setting.limits
        self.random = random.Random(setting.seed)
        self.clock = VirtualClock(loop, setting.day_s)
        self.route = Route(name=ROUTE, tier="fast", provider="p", model="m", **limits)
        self.latency_s = setting.latency_s
        rates = Rates(limits.get("rpm", 0), limits.get("tpm", 0), bucket_s=setting.depth_s)
        self.true = Limits(rates, loop.now)
        self.store = MemoryStore(self)
        self.news = MemoryNews(self, setting.lost_news)
        self.processes: list[Process] = []
        self.seen: list[Seen] = []
        self.errors: list[LlmError] = []
        self.running = 0
        self.running_max = 0
        self._numbers = 0

    async def process(self) -> Process:
        """One more process."""
        self._numbers += 1
        plan = CapacityPlan((self.route,), {ROUTE: "max_tokens"}, LANES, self.random.random)
        capacity = Capacity(self._numbers, self.store, self.news, self.clock, plan)
        process = Process(self._numbers, self, capacity)
        self.processes.append(process)
        await capacity.start()
        return process

    async def call(self, process: Process, flow: Flow, load: Load) -> None:
        """One call through the limiter to the provider and back; refused ones are not tried again."""
        draw = self.random
        input_tokens, max_tokens = draw.randint(*load.input_tokens), draw.randint(*load.max_tokens)
        cost = Cost(max(1, round(input_tokens * load.estimate)), max_tokens, max_tokens)
        limiter = process.limiter
        hold = limiter.try_take(cost, flow)
        if hold is None:
            hold = await limiter.take(cost, flow, self.clock.monotonic() + load.patience_s)
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            await asyncio.sleep(draw.uniform(0.001, 0.01))
            now = self.clock.monotonic()
            refusal = self.true.admit(Charge(input_tokens + max_tokens), now)
            self.seen.append(Seen(now, process.number, flow, input_tokens + max_tokens, refusal is None))
            gauges = self.true.gauges(now)
            if refusal is not None:
                hold.release()
                limiter.throttled(refusal.retry_after_s if refusal.retry_after_s < 1e6 else None)
                await asyncio.sleep(0.02)
                return
            await asyncio.sleep(self.latency_s * draw.uniform(0.5, 1.5))
            for name, gauge in (("requests", gauges.requests), ("tokens", gauges.tokens)):
                if gauge is not None:
                    limiter.told(name, gauge.limit, gauge.remaining)
            hold.settle(input_tokens, max_tokens // 2)
        finally:
            self.running -= 1
            hold.failed()

    def check(self, want: Want, leases: Mapping[int, Lease], now: float) -> None:
        """What must hold after each exchange: the leased rates are within the limits."""
        for at, limit in enumerate(want.limits.rates):
            held = sum(lease.rates[at] for lease in leases.values() if lease.until > now)
            assert not limit or held <= limit * 1.000001, (at, held, limit)

    def used(self, since: float, until: float) -> float:
        """The part of the binding limit that was used, whichever was used most."""
        admitted = [seen for seen in self.seen if seen.admitted and since <= seen.at < until]
        minutes = (until - since) / 60
        parts = []
        if self.route.rpm:
            parts.append(len(admitted) / (self.route.rpm * minutes))
        if self.route.tpm:
            parts.append(sum(seen.tokens for seen in admitted) / (self.route.tpm * minutes))
        return max(parts)

    def refused(self, since: float, until: float) -> tuple[int, int]:
        """Calls refused, and calls."""
        of_time = [seen for seen in self.seen if since <= seen.at < until]
        return sum(not seen.admitted for seen in of_time), len(of_time)

    def by(self, what: Callable[[Seen], str], since: float, until: float) -> dict[str, float]:
        """Tokens admitted by tenant, agent or whatever."""
        totals: dict[str, float] = {}
        for seen in self.seen:
            if seen.admitted and since <= seen.at < until:
                totals[what(seen)] = totals.get(what(seen), 0.0) + seen.tokens
        return totals
