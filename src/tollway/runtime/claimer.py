"""When and how much a worker claims: woken by news, by a freed slot behind a backlog, or by a jittered poll.

Claims are paced so that under load each brings a batch; a claim that found lines empty closes them, at once when they
stood in the way of others, else only after they stayed empty, since most fill again within a moment.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.queue.shares import room
from tollway.record.claims import LINES_MAX, Claim, Claimed, Claims
from tollway.runtime.doors import Doors, OpenDoors
from tollway.telemetry.logs import get_logger

log = get_logger("claimer")

PACE_S = 0.008
BATCH_MAX = 100
EMPTY_FOR_S = 2.0
FLOOR_LAG_S = 2.0
WHOLE_EVERY_S = 1.0
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class ClaimerOptions:
    """What a worker claims: its lanes in order of precedence with their shares of its slots, and its agents.

    `doors` say which agents' runs may start just now.
    """

    lanes: tuple[str, ...]
    shares: dict[str, float]
    slots: int
    agents: tuple[str, ...]
    doors: Doors = field(default_factory=OpenDoors)


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
        self._floors = {lane: _Floor(options.agents) for lane in options.lanes}
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

    def _open_classes(self, lane: str) -> list[tuple[list[str], int]]:
        """The agents whose runs may be claimed together, and how many: a closed class is not looked at at all."""
        rooms = {agent: self._options.doors.room(lane, agent) for agent in self._options.agents}
        whole = [agent for agent, most in rooms.items() if most is None]
        few = [([agent], min(most, BATCH_MAX // 2)) for agent, most in rooms.items() if most]
        return [(whole, BATCH_MAX), *few] if whole else few

    async def _claim(self, lane: str) -> None:
        for agents, most in self._open_classes(lane):
            await self._claim_of(lane, agents, most)

    async def _claim_of(self, lane: str, agents: Sequence[str], most: int) -> None:
        wanted = min(most, BATCH_MAX, room(lane, self._running, self._options.shares, self._options.slots))
        if wanted == 0:
            self._backlogged.add(lane)
            return
        floor = self._floors[lane]
        whole = most >= BATCH_MAX
        known = floor.at(self._clock.monotonic()) if whole else {}
        floors = {agent: known.get(agent, 0.0) for agent in agents}
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
        if claimed.low is not None and whole:  # one class alone does not say how far the lane's service is
            await self._keep_floor(lane, floor, claimed.low)
        await self._close_empty(lane, claimed, full=len(claimed.claims) == wanted)

    async def _keep_floor(self, lane: str, floor: "_Floor", low: float) -> None:
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


class _Floor:
    """The lowest virtual time seen two seconds ago: below it the index holds mostly dead entries, so it is not read.

    Once a second, and whenever a claim came back short, the whole index is read, so that a line below the floor (a
    newcomer's, or one that was charged too much at first) is never overlooked for longer.
    """

    def __init__(self, agents: Sequence[str]) -> None:
        self._agents = agents
        self._floor = 0.0
        self._next = 0.0
        self._next_since = 0.0
        self._whole_at = 0.0
        self._written = 0.0
        self._written_at = 0.0

    def at(self, now: float) -> dict[str, float]:
        """The floor to claim with, by class."""
        if now >= self._whole_at:
            self._whole_at = now + WHOLE_EVERY_S
            return dict.fromkeys(self._agents, 0.0)
        if now - self._next_since >= FLOOR_LAG_S:
            self._floor, self._next, self._next_since = self._next, float("inf"), now
            if self._floor == float("inf"):
                self._floor = 0.0
        return dict.fromkeys(self._agents, self._floor)

    def short(self) -> None:
        """A claim brought less than was wanted: look at everything next time."""
        self._whole_at = 0.0

    def saw(self, low: float, now: float) -> float | None:
        """Take note of the lowest time seen; returns it when it is worth writing down for newcomers."""
        self._next = min(self._next, low)
        self._floor = min(self._floor, low)
        if low > self._written and now - self._written_at >= WHOLE_EVERY_S:
            self._written, self._written_at = low, now
            return low
        return None
