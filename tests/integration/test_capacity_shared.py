"""P5 with everything real but the model: leases in Postgres, news over it, calls over HTTP to true token buckets."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest

from llm_kit import transport_to
from runtime_kit import until
from tollway.config import Route
from tollway.domain.clock import AnchoredClock
from tollway.hotstate.broadcast import Broadcast
from tollway.hotstate.postgres_capacity import PostgresCapacity
from tollway.llm.capacity.costs import Cost, Flow
from tollway.llm.capacity.leases import Capacity, CapacityPlan
from tollway.llm.transport import Transport
from tollway.record.database import Database, DatabaseOptions
from tollway.simulator.provider import RunningSim, start_provider_sim

pytestmark = [pytest.mark.slow]

ROUTE = "limited"
PROMPT = "word " * 40
MAX_TOKENS = 50
SATURATED_S = 10.0
MEASURED_S = 12.0


@dataclass
class Member:
    """One process' end: its limiters, its connections."""

    capacity: Capacity
    transport: Transport
    refused: int = 0

    async def calls(self, flow: Flow, stop: asyncio.Event) -> None:
        """One caller that asks again as soon as it is answered."""
        limiter = self.capacity.limiter(ROUTE)
        body = msgspec.json.encode(
            {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": MAX_TOKENS}
        )
        cost = Cost(len(PROMPT) // 4, MAX_TOKENS, MAX_TOKENS)
        while not stop.is_set():
            hold = limiter.try_take(cost, flow) or await limiter.take(cost, flow, time.monotonic() + 60)
            try:
                answer = await self.transport.post(body, "call", 10.0, None)
                if answer.status == 429:
                    self.refused += 1
                    hold.release()
                    limiter.throttled(answer.retry_after_s)
                else:
                    assert answer.status == 200
                    usage = msgspec.json.decode(answer.body)["usage"]
                    hold.settle(usage["prompt_tokens"], usage["completion_tokens"])
            finally:
                hold.failed()


@asynccontextmanager
async def members(url: str, sim: RunningSim, route: Route, count: int) -> AsyncIterator[list[Member]]:
    """Processes that share a route, each with its own connections to Postgres, to the news and to the provider."""
    async with AsyncExitStack() as stack:
        found = []
        for number in range(count):
            clock = AnchoredClock()
            database = Database(DatabaseOptions(url, durable=False, connections_max=2), clock)
            news = Broadcast(url)
            await database.start()
            stack.push_async_callback(database.stop)
            await news.start()
            stack.push_async_callback(news.stop)
            await until(lambda news=news: news.connected)
            plan = CapacityPlan((route,), lanes={"standard": 1.0})
            capacity = Capacity(number + 1, PostgresCapacity(database), news, clock, plan)
            await capacity.start()
            stack.push_async_callback(capacity.stop)
            transport = await stack.enter_async_context(transport_to(f"{sim.url}/v1/chat/completions"))
            found.append(Member(capacity, transport))
        yield found


async def after(seconds: float, look: Callable[[], int]) -> int:
    """What there is to see after a while."""
    until_at = time.monotonic() + seconds
    while time.monotonic() < until_at:
        await asyncio.sleep(0.05)
    return look()


@pytest.mark.parametrize(
    ("limits", "units"),
    [
        pytest.param({"rpm": 600}, lambda totals: totals.by_status.get("200", 0), id="rpm"),
        pytest.param(
            {"tpm": 60_000, "rpm": 6000},
            lambda totals: totals.input_tokens + totals.by_status.get("200", 0) * MAX_TOKENS,
            id="tpm",
        ),
    ],
)
async def test_four_processes_use_a_small_limit_whole(
    database_url: str, limits: dict[str, int], units: Callable[..., int]
) -> None:
    """P5: of 600 requests or 60,000 tokens a minute over 4 processes >= 97 % are used; <= 1 call is refused."""
    sim = await start_provider_sim({**limits, "latency_s": 0.2, "output_tokens": 20, "bucket_s": 1.0})
    route = Route(name=ROUTE, tier="fast", provider="p", model="m", **limits)
    stop = asyncio.Event()
    try:
        async with members(database_url, sim, route, 4) as crew:
            callers = [
                asyncio.ensure_future(member.calls(Flow("standard", f"tenant-{n % 3}", "agent"), stop))
                for member in crew
                for n in range(8)
            ]
            before = await after(SATURATED_S, lambda: units(sim.ledger.totals()))
            since = time.monotonic()
            made = await after(MEASURED_S, lambda: units(sim.ledger.totals())) - before
            rate = made / (time.monotonic() - since)
            stop.set()
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            assert not [c for c in callers if not c.cancelled() and c.exception()]
            calls = sim.ledger.totals().calls
            assert sum(member.refused for member in crew) <= max(1, calls // 1000)
            limit = limits["rpm"] if "tpm" not in limits else limits["tpm"]
            assert rate * 60 >= 0.97 * limit
    finally:
        await sim.stop()
