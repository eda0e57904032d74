"""Which classes may be claimed now: what its dependency or provider cannot serve stays in the queue at no cost (P8).

A class is shut while a breaker that its agent `requires` is open, or while the tier that its runs ask first has no
capacity in time, if runs of it were seen to ask; what opens again fills slowly. Whoever was held is claimed at once.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tollway.domain.clock import Clock
from tollway.domain.gates import Blocked, Gate
from tollway.llm.breakers.board import BreakerBoard
from tollway.llm.outlook import Outlook
from tollway.queue.doors import Door, DoorState, Habits, tier_state

LOOK_S = 0.1
"""How often a tier is looked at while runs come, and what is shut while runs may wait for it."""

FACTS_MAX = 200
_STATES: Mapping[str, DoorState] = {"closed": "open", "open": "shut", "half_open": "trial", "ramping": "easing"}


class Doors(Protocol):
    """What a claimer asks and a worker tells."""

    def room(self, lane: str, agent: str) -> int | None:
        """How many more runs of a class may start in this process now; None: any number."""

    def took(self, lane: str, agent: str) -> None:
        """A run of the class was claimed."""

    def ended(self, agent: str, tier: str | None) -> None:
        """A run that had done nothing before left its slot; `tier` is what it asked first, if any."""

    def watch(self, wake: Callable[[str], None]) -> None:
        """From now on, call `wake` with a lane when there is room for a class of it again."""

    def stop(self) -> None:
        """Wake nobody any more; a second stop is nothing."""


class OpenDoors:
    """Implements `Doors` where nothing is ever held."""

    def room(self, lane: str, agent: str) -> int | None:
        """Any number."""
        return None

    def took(self, lane: str, agent: str) -> None:
        """Nothing to note."""

    def ended(self, agent: str, tier: str | None) -> None:
        """Nothing to learn."""

    def watch(self, wake: Callable[[str], None]) -> None:
        """Nobody is ever held."""

    def stop(self) -> None:
        """Nothing to stop."""


class Tiers(Protocol):
    """Who knows how tiers stand."""

    def outlook(self, tier: str, lane: str) -> Outlook:
        """How a tier stands for calls of a lane."""


@dataclass(frozen=True, slots=True)
class DoorOptions:
    """The worker's lanes, the first of which waits longest for capacity: `park_after_s`, the others half of it.

    By agent, `requires` are its dependencies and `lanes` is its own lane.
    """

    lanes: Sequence[str]
    park_after_s: float
    requires: Mapping[str, Sequence[str]]
    own_lanes: Mapping[str, str]

    def bound_s(self, lane: str) -> float:
        """The wait for capacity that is borne in a slot."""
        return self.park_after_s if lane == self.lanes[0] else self.park_after_s / 2


class ProcessDoors:
    """Implements `Doors` in a worker. Whoever sets `on_turn` hears when a door shuts or opens."""

    def __init__(self, options: DoorOptions, tiers: Tiers, dependencies: BreakerBoard, clock: Clock) -> None:
        self.on_turn: Callable[[], None] | None = None
        self._options = options
        self._tiers = tiers
        self._dependencies = dependencies
        self._clock = clock
        self._habits = Habits()
        self._dependency_doors: dict[str, Door] = {}
        self._tier_doors: dict[tuple[str, str], _TierDoor] = {}
        self._held: set[tuple[str, str]] = set()
        self._wake: Callable[[str], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        dependencies.on_turn = self._turned

    def room(self, lane: str, agent: str) -> int | None:
        """How many more runs of a class may start in this process now; None: any number."""
        now = self._clock.monotonic()
        least: int | None = None
        for door in self._doors_of(lane, agent, now):
            room = door.room(now)
            if room is not None and (least is None or room < least):
                least = room
        if least == 0:
            self._hold(lane, agent)
        else:
            self._held.discard((lane, agent))
        return least

    def took(self, lane: str, agent: str) -> None:
        """A run of the class was claimed. Where it was the last that may start, its like are claimed when more may."""
        now = self._clock.monotonic()
        for door in self._doors_of(lane, agent, now):
            door.took(1)
            if door.room(now) == 0:
                self._hold(lane, agent)

    def ended(self, agent: str, tier: str | None) -> None:
        """A run that had done nothing before left its slot; `tier` is what it asked first, if any."""
        self._habits.ended(agent, tier)

    def watch(self, wake: Callable[[str], None]) -> None:
        """From now on, call `wake` with a lane when there is room for a class of it again."""
        self._wake = wake

    def stop(self) -> None:
        """Wake nobody any more; a second stop is nothing."""
        self._wake = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def facts(self) -> dict[str, Blocked]:
        """The agents whose classes are shut or on trial here, why, and until when: what the worker tells the others."""
        found: dict[str, Blocked] = {}
        for agent, lane in self._options.own_lanes.items():
            blocked = self._blocked(lane if lane in self._options.lanes else self._options.lanes[0], agent)
            if blocked is not None and len(found) < FACTS_MAX:
                found[agent] = blocked
        return found

    def _blocked(self, lane: str, agent: str) -> Blocked | None:
        now = self._clock.monotonic()
        shift = self._clock.now() - now
        for name in self._options.requires.get(agent, ()):
            if self._dependency_door(name, now).state in ("shut", "trial"):
                opens_at = self._dependencies.of(name).opens_at
                return Blocked(Gate.DEPENDENCY, name, None if opens_at is None else round(opens_at + shift, 3))
        tier = self._habits.tier(agent)
        if tier is None:
            return None
        at = self._tier_door(tier, lane, now)
        if at.door.state not in ("shut", "trial"):
            return None
        return Blocked(Gate.CAPACITY, tier, None if at.opens_at is None else round(at.opens_at + shift, 3))

    def _doors_of(self, lane: str, agent: str, now: float) -> list[Door]:
        doors = [self._dependency_door(name, now) for name in self._options.requires.get(agent, ())]
        tier = self._habits.tier(agent)
        if tier is not None:
            doors.append(self._tier_door(tier, lane, now).door)
        return doors

    def _dependency_door(self, name: str, now: float) -> Door:
        door = self._dependency_doors.get(name)
        if door is None:
            door = self._dependency_doors[name] = Door()
        breaker = self._dependencies.of(name)
        breaker.look(now)
        door.see(_STATES[breaker.state], now)
        return door

    def _tier_door(self, tier: str, lane: str, now: float) -> "_TierDoor":
        at = self._tier_doors.get((tier, lane))
        if at is None:
            at = self._tier_doors[tier, lane] = _TierDoor()
        if now >= at.look_at:
            at.look_at = now + LOOK_S
            before = at.door.state
            at.look(self._tiers.outlook(tier, lane), self._options.bound_s(lane), now)
            if (before == "shut") != (at.door.state == "shut") and self.on_turn is not None:
                self.on_turn()
        return at

    def _hold(self, lane: str, agent: str) -> None:
        self._held.add((lane, agent))
        if self._timer is None and self._wake is not None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Wake the claimer for the classes that were held, if there is room for them now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lanes = {lane for lane, agent in list(self._held) if self.room(lane, agent) != 0}
        if self._wake is not None:
            for lane in sorted(lanes):
                self._wake(lane)

    def _turned(self, _name: str) -> None:
        """A dependency's breaker opened, or serves again."""
        if self.on_turn is not None:
            self.on_turn()
        if self._held:
            self._look()


class _TierDoor:
    """A tier's door in a lane, when it was looked at, and when it opens at the latest, if that is known."""

    __slots__ = ("door", "look_at", "opens_at")

    def __init__(self) -> None:
        self.door = Door()
        self.look_at = -math.inf
        self.opens_at: float | None = None

    def look(self, seen: Outlook, bound_s: float, now: float) -> None:
        """Take a new look."""
        self.door.see(tier_state(self.door, seen.wait_s, bound_s, sound=seen.sound, waited_for=seen.waited_for), now)
        if seen.wait_s < math.inf:
            self.opens_at = now + max(0.0, seen.wait_s - bound_s)
        else:
            self.opens_at = None if seen.opens_in_s is None else now + seen.opens_in_s
