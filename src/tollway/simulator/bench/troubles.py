"""What befalls the first provider of the failover scenario, and what the ledgers and the routes' view tell of it."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from tollway.simulator.bench.provider import Provider, arrived_s
from tollway.simulator.bench.stack import Stack
from tollway.simulator.ledger import Row

GOOD_S, TROUBLE_S, RECOVERY_S = 4.0, 12.0, 15.0
_LOOK_EVERY_S = 0.1
_SLOWER = 10.0


class Trouble:
    """Some good seconds, some of trouble, and the recovery; times are epoch seconds."""

    def __init__(self, stack: Stack, route: str, latency_s: float) -> None:
        self.began_s = self.over_s = 0.0
        self.opened_s: float | None = None
        self._stack = stack
        self._route = route
        self._latency_s = latency_s
        self._lost: list[Row] = []

    @property
    def first(self) -> Provider:
        """The provider that is in trouble."""
        return self._stack.providers[0]

    async def run(self) -> None:
        """The whole course."""
        await asyncio.sleep(GOOD_S)
        self.began_s = time.time()
        await self.begin()
        await self._until_opened()
        await asyncio.sleep(max(0.0, self.began_s + TROUBLE_S - time.time()))
        self.over_s = time.time()
        await self.end()

    async def begin(self) -> None:
        """Slow tenfold."""
        await self.first.configure(latency_s=self._latency_s * _SLOWER)

    async def end(self) -> None:
        """As before."""
        await self.first.configure(latency_s=self._latency_s)

    async def first_rows(self) -> list[Row]:
        """The first provider's ledger, over its deaths."""
        return [*self._lost, *await self.first.rows()]

    async def _until_opened(self) -> None:
        """Wait until the route's breaker is seen open, and note since when it is."""
        while time.time() < self.began_s + TROUBLE_S:
            shown = await self._stack.ask("/v1/routes")
            breaker = next(one["breaker"] for one in shown["items"] if one["name"] == self._route)
            if breaker["state"] != "closed":
                self.opened_s = _epoch_s(breaker["since"])
                return
            await asyncio.sleep(_LOOK_EVERY_S)


class Death(Trouble):
    """SIGKILL, and later another process on the same port."""

    async def begin(self) -> None:
        """Gone: nobody listens. What it billed in its last moments is nowhere but in our own ledger."""
        self._lost += await self.first.rows()
        await self.first.kill()

    async def end(self) -> None:
        """There again."""
        await self.first.start()
        await self.first.configure(latency_s=self._latency_s)
        self.over_s = time.time()


def within(rows: Sequence[Row], since_s: float, until_s: float) -> list[Row]:
    """The calls that came to a provider in a span of time."""
    return [row for row in rows if since_s <= arrived_s(row) < until_s]


def _epoch_s(told: float | str) -> float:
    if isinstance(told, str):
        return datetime.fromisoformat(told).astimezone(UTC).timestamp()
    return told
