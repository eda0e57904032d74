"""When and how much a worker claims: woken by news, by a freed slot behind a backlog, or by a jittered poll.

Claims are paced so that under load each brings a batch; a claim that found lines empty closes them, at once when they
stood in the way of others, else only after they stayed empty, since most fill again within a moment.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.queue.ageing import aged_lanes, lane_order
from tollway.queue.bulkheads import Bulkheads, Held
from tollway.queue.floors import Floor
from tollway.queue.shares import Slots
from tollway.record.claims import Claim, ClaimBounds, Claimed, Claims
from tollway.runtime.doors import Doors, OpenDoors
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

PACE_S = 0.008
BATCH_MAX = 100
EMPTY_FOR_S = 2.0
EMPTY_KNOWN_S = 60.0
AGE_EVERY_S = 1.0
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class ClaimerOptions:
    """What a worker claims: its lanes in order of precedence with their shares of its slots, and its agents.

    `doors` say which agents' runs may start just now, `bulkheads` what one agent or tenant may hold; work of a lane
    that has waited longer than its `age_after_s` goes first every other time.
    """

    lanes: tuple[str, ...]
    shares: dict[str, float]
    slots: int
    agents: tuple[str, ...]
    doors: Doors = field(default_factory=OpenDoors)
    bulkheads: Bulkheads = field(default_factory=Bulkheads)
    age_after_s: Mapping[str, float] = field(default_factory=dict)


class Claimer:
    """Claims for one worker and hands each claim batch to `take`, which adds it to `held`."""

    def __init__(
        self,
        claims: Claims,
        clock: Clock,
        options: ClaimerOptions,
        held: Held,
        take: Callable[[Sequence[Claim]], None],
        poll_s: Callable[[], float],
    ) -> None:
        self.claiming = False
        self._poll_s = poll_s
        self._claims = claims
        self._clock = clock
        self._options = options
        self._held = held
        self._take = take
        self._wake = asyncio.Event()
        self._hungry: set[str] = set(options.lanes)
        self._backlogged: set[str] = set()
        self._slots = Slots(options.slots, options.shares)
        self._floors = {lane: Floor() for lane in options.lanes}
        self._empty_since: dict[tuple[str, str, str], float] = {}
        self._forget_at = 0.0
        self._oldest_at: dict[str, float] = {}
        self._age_at = dict.fromkeys(options.lanes, 0.0)
        self._turn = 1
        self._shared = False
        self._poll_at = 0.0
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
        self._poll_at = self._clock.monotonic() + self._poll_s()
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
        aged = aged_lanes(self._oldest_at, self._options.age_after_s, self._clock.now())
        order = [lane for lane in lane_order(self._options.lanes, aged, self._turn) if lane in hungry]
        for lane in order:
            if self._stopping:
                return
            had_room = await self._claim(lane)
            if lane == order[0] and had_room:  # a turn without a free slot is none: old work might never meet one
                self._turn += 1

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
            work = await self._claims.look_for_work(self._options.lanes, self._options.agents)
            self._hungry.update(work.lanes)
            self._shared = work.shared

    @property
    def _busy(self) -> bool:
        return sum(self._held.lanes.values()) > BATCH_MAX // 4

    async def _claim(self, lane: str) -> bool:
        """Claim what there is room for; whether there was any."""
        room = self._slots.room(lane, self._held.lanes, self._clock.monotonic())
        if room == 0:
            self._backlogged.add(lane)
            await self._note_age(lane)
            return False
        wanted = min(BATCH_MAX, room)
        bounds, ours = self._bounds(lane, room)
        agents = [agent for agent in self._options.agents if bounds.agents.get(agent) != 0]
        if not agents:
            self._note_short(lane, bulging=_reached(ours, (), wanted))
            return True
        floor = self._floors[lane]
        began = self._clock.monotonic()
        floors = floor.at(began, agents)
        claimed = await self._claims.claim(lane, floors, wanted, bounds)
        ended = self._clock.monotonic()
        floor.took(ended - began, ended, whole=not any(floors.values()))
        if claimed.claims:
            self._take(claimed.claims)
            self._slots.saw(self._held.lanes, self._clock.monotonic())
        full = len(claimed.claims) == wanted
        if full:
            self._backlogged.add(lane)
            self._hungry.add(lane)
            self._oldest_at[lane] = min(claim.place for claim in claimed.claims) / 1e6
        elif claimed.more:  # below the floor, or another worker claimed from them just now
            floor.short()
            self._backlogged.add(lane)
            self._hungry.add(lane)
        else:
            self._note_short(lane, bulging=_reached(ours, claimed.claims, wanted))
        if claimed.low is not None and claimed.level is not None:
            floor.saw(claimed.low)
            if not any(floors.values()):  # all lines were seen
                await self._raise_floor(lane, floor, claimed.level)
        if claimed.filled:
            await self._claims.turn_capped(claimed.filled)
        await self._close_empty(lane, claimed)
        return True

    def _bounds(self, lane: str, room: int) -> tuple[ClaimBounds, ClaimBounds]:
        """The most that a claim may bring by agent and tenant; and the same as far as it is this worker's own runs.

        A class behind a closed door gets 0, and is not looked at at all.
        """
        options, held = self._options, self._held
        agents = dict.fromkeys(options.agents, room)
        if len(agents) > 1:
            agents = held.agents_room(lane, options.agents, room, options.bulkheads.agent_share_max)
        by_doors = dict(agents)
        for agent in options.agents:
            behind_door = options.doors.room(lane, agent)
            if behind_door is not None:
                by_doors[agent] = min(agents[agent], max(0, behind_door))
        if not self._shared:
            return ClaimBounds(by_doors), ClaimBounds(agents)
        tenants = held.tenants_room(lane, room, options.bulkheads.tenant_share_max)
        other = held.newcomer_room(lane, room, options.bulkheads.tenant_share_max)
        return ClaimBounds(by_doors, tenants, other), ClaimBounds(agents, tenants, other)

    def _note_short(self, lane: str, *, bulging: bool) -> None:
        """All that could be claimed was; what waits behind this worker's own runs goes on when one of them ends."""
        self._oldest_at.pop(lane, None)
        if bulging and self._held.lanes[lane]:
            self._backlogged.add(lane)
        else:
            self._backlogged.discard(lane)

    async def _note_age(self, lane: str) -> None:
        """A lane that gets no slot brings no runs that tell how long its work has waited: look, now and then."""
        now = self._clock.monotonic()
        if lane in self._options.age_after_s and now >= self._age_at[lane]:
            self._age_at[lane] = now + AGE_EVERY_S
            oldest_at = await self._claims.oldest_at(lane, self._options.agents)
            if oldest_at is None:
                self._oldest_at.pop(lane, None)
            else:
                self._oldest_at[lane] = oldest_at

    async def _raise_floor(self, lane: str, floor: Floor, level: float) -> None:
        """Say where service stands: also for classes that are held, which gain no credit by it."""
        if floor.rose(level, self._clock.monotonic()):
            await self._claims.raise_floor(lane, dict.fromkeys(self._options.agents, level))

    async def _close_empty(self, lane: str, claimed: Claimed) -> None:
        now = self._clock.monotonic()
        found = {(lane, *line) for line in claimed.empty}
        for claim in claimed.claims:
            self._empty_since.pop((lane, claim.agent, claim.tenant), None)
        self._forget_old(now)
        for line in found:
            self._empty_since.setdefault(line, now)
        in_the_way = claimed.more  # as lines not looked at, or as those whose part of the claim came to nothing
        due = [line for line in found if in_the_way or now - self._empty_since[line] >= EMPTY_FOR_S]
        if due:
            await self._claims.mark_idle(lane, sorted((line[1], line[2]) for line in due))
            for line in due:
                self._empty_since.pop(line, None)

    def _forget_old(self, now: float) -> None:
        """Forget now and then what was seen empty long ago: other workers have closed those lines since."""
        if now >= self._forget_at:
            self._forget_at = now + EMPTY_KNOWN_S
            known = self._empty_since.items()
            self._empty_since = {line: since for line, since in known if now - since < EMPTY_KNOWN_S}


def _reached(bounds: ClaimBounds, claims: Sequence[Claim], wanted: int) -> bool:
    """Whether a claim of `wanted` ended at one of these bounds, so that there may be more behind it."""
    agents, tenants = Counter(claim.agent for claim in claims), Counter(claim.tenant for claim in claims)
    other = wanted if bounds.other_tenant is None else bounds.other_tenant
    return (
        any(most < wanted and agents[agent] >= most for agent, most in bounds.agents.items())
        or any(most < wanted and tenants[tenant] >= most for tenant, most in bounds.tenants.items())
        or (other < wanted and any(runs >= bounds.tenants.get(tenant, other) for tenant, runs in tenants.items()))
    )
