"""When and how much a worker claims: woken by news, by a freed slot behind a backlog, or by a jittered poll.

Claims are paced so that under load each brings a batch; a claim that found lines empty closes them, at once when they
stood in the way of others, else only after they stayed empty, since most fill again within a moment.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.queue.floor import Floor
from tollway.queue.shares import room
from tollway.record.claims import LINES_MAX, Claim, Claimed, Claims
from tollway.telemetry.logs import get_logger

log = get_logger("claimer")

PACE_S = 0.008
BATCH_MAX = 100
EMPTY_FOR_S = 2.0
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class ClaimerOptions:
    """What a worker claims: its lanes in order of precedence with their shares of its slots, and its agents."""

    lanes: tuple[str, ...]
    shares: dict[str, float]
    slots: int
    agents: tuple[str, ...]


class Claimer:
    """Claims for one worker and hands each claim batch to `take`."""

    def __init__(
        self,
        claims: Claims,
        clock: Clock,
        options: ClaimerOptions,
        running: dict[str, int],
        take: Callable[[Sequence[Claim]], None],
        poll_s: Callable[[], float],
    ) -> None:
        self.claiming = False
        self._poll_s = poll_s
        self._claims = claims
        self._clock = clock
        self._options = options
        self._running = running
        self._take = take
        self._wake = asyncio.Event()
        self._hungry: set[str] = set(options.lanes)
        self._backlogged: set[str] = set()
        self._floors = {lane: Floor(options.agents) for lane in options.lanes}
        self._empty_since: dict[tuple[str, str, str], float] = {}
        self._poll_at = clock.monotonic() + poll_s()
        self._stopping = False

    def news(self, lanes: str) -> None:
        """Runs entered these lanes (joined by commas)."""
        self._hungry.update(lane for lane in lanes.split(",") if lane in self._floors)
        self._wake.set()

    def slot_freed(self) -> None:
        """A run ended: there may be room for what waits behind a full worker."""
        if self._backlogged:
            self._hungry |= self._backlogged
            self._wake.set()

    def stop(self) -> None:
        """Claim no more; a second stop is nothing."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Claim until stopped."""
        while not self._stopping:
            try:
                await self._round()
                self.claiming = True
                await self._rest()
            except DatabaseUnavailable as error:
                self.claiming = False
                log.warning("claim.unreachable", error=str(error))
                self._hungry.update(self._options.lanes)
                await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))
        self.claiming = False

    async def _round(self) -> None:
        hungry, self._hungry = self._hungry, set()
        self._wake.clear()
        for lane in self._options.lanes:
            if lane in hungry and not self._stopping:
                await self._claim(lane)

    async def _rest(self) -> None:
        """Pace the next claim when there is work, else wait for news; poll in any case, however much comes."""
        began = self._clock.monotonic()
        if not self._hungry:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._poll_at - began)):
                    await self._wake.wait()
        left_s = PACE_S - (self._clock.monotonic() - began)
        if left_s > 0 and ((self._hungry and self._busy) or self._backlogged):
            await asyncio.sleep(left_s)
        now = self._clock.monotonic()
        if now >= self._poll_at:
            self._poll_at = now + self._poll_s() * random.uniform(0.75, 1.25)
            options = self._options
            self._hungry.update(await self._claims.lanes_with_work(options.lanes, options.agents))

    @property
    def _busy(self) -> bool:
        return sum(self._running.values()) > BATCH_MAX // 4

    async def _claim(self, lane: str) -> None:
        wanted = min(BATCH_MAX, room(lane, self._running, self._options.shares, self._options.slots))
        if wanted == 0:
            self._backlogged.add(lane)
            return
        floor = self._floors[lane]
        floors = floor.at(self._clock.monotonic())
        claimed = await self._claims.claim(lane, floors, wanted)
        if claimed.claims:
            self._take(claimed.claims)
        if len(claimed.claims) == wanted:
            self._backlogged.add(lane)
            self._hungry.add(lane)
        elif any(floors.values()):  # there may be more below the floor
            floor.short()
            self._hungry.add(lane)
        else:
            self._backlogged.discard(lane)
        if claimed.low is not None:
            await self._keep_floor(lane, floor, claimed.low)
        await self._close_empty(lane, claimed, full=len(claimed.claims) == wanted)

    async def _keep_floor(self, lane: str, floor: Floor, low: float) -> None:
        raised = floor.saw(low, self._clock.monotonic())
        if raised is not None:
            await self._claims.raise_floor(lane, dict.fromkeys(self._options.agents, raised))

    async def _close_empty(self, lane: str, claimed: Claimed, *, full: bool) -> None:
        now = self._clock.monotonic()
        found = {(lane, *line) for line in claimed.empty}
        for claim in claimed.claims:
            self._empty_since.pop((lane, claim.agent, claim.tenant), None)
        for line in found:
            self._empty_since.setdefault(line, now)
        in_the_way = claimed.lines >= LINES_MAX and not full
        due = [line for line in found if in_the_way or now - self._empty_since[line] >= EMPTY_FOR_S]
        if due:
            await self._claims.mark_idle(lane, sorted((line[1], line[2]) for line in due))
            for line in due:
                self._empty_since.pop(line, None)
            if in_the_way:
                self._hungry.add(lane)
