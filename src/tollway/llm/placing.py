"""Where a request goes: the first route in order that is open, fits, and has capacity, at once or after a fair wait.

    groups of the tier, in order          for each route of a group, by weight and headroom
    ─▶ fits its window? ─▶ breaker admits? ─▶ retry budget? ─▶ capacity at once ─▶ placed
                                                              └─ else: wait here if the wait is short, or ask the next
                                                                 group; in the end wait where it is shortest

What no route can serve in time raises an LlmError whose `parks` is set: a run gives up its slot until `retry_after_s`.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tollway.config import Llm
from tollway.domain.budgets import Stood
from tollway.domain.clock import Clock
from tollway.domain.errors import LlmError
from tollway.domain.llm import Caller, LlmRequest
from tollway.llm.breakers.parts import Ticket
from tollway.llm.calls import Served
from tollway.llm.capacity.costs import Cost, Flow
from tollway.llm.capacity.holds import Hold
from tollway.llm.capacity.open import OpenLimiter
from tollway.llm.guards import Guards
from tollway.llm.outlook import Outlook, outlook, usual
from tollway.llm.throttle import Fare
from tollway.llm.tiers import Group, Tiers, in_order
from tollway.llm.ways import Way
from tollway.spend.budgets import Pace

_SHARE_MIN = 0.02
_AGAIN_S = 1.0
_STAY = 0.7
_LOOK_AGAIN_S = 30.0


@dataclass(slots=True)
class Errand:
    """A request on its way: what it is expected to take, until when (monotonic seconds), and what failed so far.

    `asked` is the tier before any shift; `stood` are the rungs of budgets that the request stands on, `paces` those
    that throttle it, and `fare` what it was let go for.
    """

    request: LlmRequest
    caller: Caller
    input_tokens: int
    deadline: float
    again: bool
    flow: Flow
    asked: str = ""
    failed: dict[str, LlmError] = field(default_factory=dict)
    providers: set[str] = field(default_factory=set)
    stood: tuple[Stood, ...] = ()
    paces: tuple[Pace, ...] = ()
    fare: Fare | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A route that may be called now: its capacity held, its breaker told that a call begins.

    `instead_of` names the route that should have served, and why it did not.
    """

    way: Way
    hold: Hold
    ticket: Ticket
    instead_of: tuple[str, str] | None = None

    def withdraw(self) -> None:
        """The call is surely not made."""
        self.hold.release()
        self.way.breaker.drop(self.ticket)


@dataclass(slots=True)
class _Search:
    """One look over the routes: where a wait would help, and why the others cannot serve."""

    waits: list[tuple[float, int, Way]] = field(default_factory=list)
    shut: dict[str, tuple[str, float]] = field(default_factory=dict)


class Placer:
    """Places requests. It keeps nothing of its own but the routes and their guards."""

    def __init__(
        self,
        tiers: Tiers[Served],
        guards: Guards,
        options: Llm,
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._tiers = tiers
        self._guards = guards
        self._options = options
        self._clock = clock
        self._chance = chance
        self._ways: dict[str, Way] = {}

    def way(self, served: Served) -> Way:
        """The route with its guards, put together once."""
        way = self._ways.get(served.route.name)
        if way is None:
            name = served.route.name
            way = self._ways[name] = Way(served, self._guards.capacity.limiter(name), self._guards.breakers.of(name))
        return way

    def groups(self, errand: Errand) -> tuple[Group[Served], ...]:
        """The groups of what is asked for, with the routes that the request fits. Raises a final LlmError."""
        request = errand.request
        groups = self._tiers.groups(request.tier)
        if not groups:
            raise self._unserved(request.tier)
        if all(_fits(errand, served) is None for group in groups for served in group.routes):
            return groups
        fitting = tuple(
            Group(group.tier, routes, group.spills)
            for group in groups
            if (routes := tuple(served for served in group.routes if _fits(errand, served) is None))
        )
        if not fitting:
            raise _too_large(errand, [served for group in groups for served in group.routes])
        return fitting

    def outlook(self, tier: str) -> Outlook:
        """How the routes of a tier stand, those it falls back to included."""
        ways = [self.way(served) for group in self._tiers.groups(tier) for served in group.routes]
        return outlook(ways, self._clock.monotonic(), self._clock.now())

    async def place(self, errand: Errand) -> Placed:
        """The route to call, its capacity held. Raises LlmError when there is none in time."""
        groups = self.groups(errand)
        while True:
            search = _Search()
            for number, group in enumerate(groups):
                placed = self._at_once(errand, group, search, number)
                if placed is None and not group.spills and number < len(groups) - 1:
                    placed = await self._wait_here(errand, search, number)
                if placed is not None:
                    return self._judged(placed, groups, number, search, errand)
            number, way, patience_s = self._shortest_wait(errand, search)
            placed = await self._take(way, errand, self._clock.monotonic() + patience_s)
            if placed is not None:
                return self._judged(placed, groups, number, search, errand)

    def _at_once(self, errand: Errand, group: Group[Served], search: _Search, number: int) -> Placed | None:
        now = self._clock.monotonic()
        for way in self._ordered(group, errand):
            barred = self._barred(way, errand, now)
            if barred is not None:
                search.shut[way.name] = barred
                continue
            cost = self._cost(way, errand)
            hold = way.limiter.try_take(cost, errand.flow)
            way.usual = usual(way.usual, cost)
            if hold is not None:
                return self._begun(way, errand, hold, now)
            wait_s = way.limiter.wait_s(cost)
            search.shut[way.name] = ("no_capacity", wait_s)
            search.waits.append((wait_s, number, way))
        return None

    def _ordered(self, group: Group[Served], errand: Errand) -> Iterator[Way]:
        ways = [way for served in group.routes if (way := self.way(served)).name not in errand.failed]
        if len(ways) < 2:
            return iter(ways)
        weights = [way.served.route.weight * max(_SHARE_MIN, way.limiter.headroom) for way in ways]
        return iter(in_order(ways, weights, self._chance))

    def _barred(self, way: Way, errand: Errand, now: float) -> tuple[str, float] | None:
        """Why a route may not be called now, and for how many seconds."""
        if not way.breaker.admits(now, self._chance()):
            opens_at = way.breaker.opens_at
            return "breaker_open", _AGAIN_S if opens_at is None else max(0.0, opens_at - now)
        if self._repeats(way, errand) and self._guards.retries.of(way.provider).left(now) < 1:
            return "retry_budget", _AGAIN_S
        return None

    def _repeats(self, way: Way, errand: Errand) -> bool:
        return errand.again or way.provider in errand.providers

    def _begun(self, way: Way, errand: Errand, hold: Hold, now: float) -> Placed:
        budget = self._guards.retries.of(way.provider)
        if self._repeats(way, errand):
            budget.may_repeat(now)
        else:
            budget.first(now)
        return Placed(way, hold, way.breaker.begin(now, errand.request.max_tokens, sent=False))

    async def _wait_here(self, errand: Errand, search: _Search, number: int) -> Placed | None:
        """Wait a moment for capacity of this group, if that is all it takes, before the next group is asked."""
        spill_s = self._options.spill_after_s
        near = [(wait_s, way) for wait_s, at, way in search.waits if at == number and wait_s <= spill_s]
        if not near:
            return None
        way = min(near, key=lambda one: one[0])[1]
        now = self._clock.monotonic()
        try:
            return await self._take(way, errand, min(errand.deadline, now + spill_s))
        except LlmError:
            return None

    def _shortest_wait(self, errand: Errand, search: _Search) -> tuple[int, Way, float]:
        """Where the wait for capacity is shortest, and how long to wait there. Raises LlmError if it is too long."""
        if not search.waits:
            raise self._shut(errand, search)
        patience_s = min(errand.deadline - self._clock.monotonic(), self._options.park_after_s)
        wait_s, number, way = min(search.waits, key=lambda one: one[:2])
        if patience_s < wait_s < math.inf:  # infinite: the day's tokens are spent; the limiter says until when
            raise _no_capacity(errand, self._away_s(wait_s))
        return number, way, patience_s

    def _away_s(self, wait_s: float) -> float:
        """For how long to stay away when the wait is too long: back in time to wait for the rest of it.

        A forecast goes by this process' share, which may grow: half-way through a long wait it is made anew.
        """
        return max(_AGAIN_S / 4, min(wait_s - _STAY * self._options.park_after_s, max(_LOOK_AGAIN_S, wait_s / 2)))

    async def _take(self, way: Way, errand: Errand, deadline: float) -> Placed | None:
        """Wait for a route's capacity; None if it may not be called any more when it comes. Raises LlmError."""
        try:
            hold = await way.limiter.take(self._cost(way, errand), errand.flow, deadline)
        except LlmError as error:
            error.retry_after_s = self._away_s(error.retry_after_s or 0.0)
            raise error.later() from None
        now = self._clock.monotonic()
        if self._barred(way, errand, now) is not None:
            hold.release()
            return None
        return self._begun(way, errand, hold, now)

    def _cost(self, way: Way, errand: Errand) -> Cost:
        max_tokens = errand.request.max_tokens
        if isinstance(way.limiter, OpenLimiter):  # nothing is shared out, so nothing need be foretold
            return Cost(errand.input_tokens, max_tokens, max_tokens)
        return self._guards.lengths.cost(way.name, errand.caller, errand.input_tokens, max_tokens)

    def _judged(
        self, placed: Placed, groups: Sequence[Group[Served]], number: int, search: _Search, errand: Errand
    ) -> Placed:
        reason = self._reason(groups, number, search, errand)
        return placed if reason is None else replace(placed, instead_of=reason)

    def _reason(
        self, groups: Sequence[Group[Served]], number: int, search: _Search, errand: Errand
    ) -> tuple[str, str] | None:
        """Which route should have served, and why it did not; None when the first in rank did, spill-over included."""
        if number == 0 or (groups[number].tier == groups[0].tier and all(group.spills for group in groups[:number])):
            return None
        first = groups[0].routes[0].route.name
        if first in errand.failed:
            return first, errand.failed[first].code
        return first, search.shut.get(first, ("no_capacity", 0.0))[0]

    def _shut(self, errand: Errand, search: _Search) -> LlmError:
        """Every route is barred: by what failed on this errand, else by its guards."""
        if errand.failed:
            return next(reversed(errand.failed.values()))
        code, wait_s = min(search.shut.values(), key=lambda one: one[1])
        names = ", ".join(f"{name} ({why})" for name, (why, _) in search.shut.items())
        message = f"no route serves {errand.request.tier!r} just now: {names}"
        return LlmError(code, message, retry_after_s=max(wait_s, 0.05)).later()

    def _unserved(self, name: str) -> LlmError:
        served = self._tiers.names
        if not served:
            return LlmError("no_route", "no route is configured: add [[routes]]", final=True)
        return LlmError("unknown_tier", f"no route serves the tier {name!r}; there are {', '.join(served)}", final=True)


def _fits(errand: Errand, served: Served) -> tuple[str, int] | None:
    """None if the request fits the route's model, else which bound it breaks, and that bound in tokens."""
    route, wanted = served.route, errand.request.max_tokens
    if route.output_tokens_max is not None and wanted > route.output_tokens_max:
        return "max_tokens", route.output_tokens_max
    if served.context_tokens is not None and errand.input_tokens + wanted > served.context_tokens:
        return "messages", served.context_tokens
    return None


def _too_large(errand: Errand, routes: Sequence[Served]) -> LlmError:
    faults = [fault for served in routes if (fault := _fits(errand, served)) is not None]
    field_name, bound = max(faults, key=lambda fault: (fault[0] == "messages", fault[1]))
    if field_name == "max_tokens":
        wanted = errand.request.max_tokens
        said = f"max_tokens is {wanted}, and no model of {errand.request.tier!r} makes more than {bound}"
    else:
        said = (
            f"the messages (about {errand.input_tokens} tokens) and max_tokens ({errand.request.max_tokens}) exceed "
            f"the largest context window of {errand.request.tier!r}, {bound} tokens"
        )
    error = LlmError("too_large", said, final=True)
    error.field = field_name
    return error


def _no_capacity(errand: Errand, wait_s: float) -> LlmError:
    message = f"no route of {errand.request.tier!r} has capacity for this call within its time"
    return LlmError("no_capacity", message, retry_after_s=wait_s).later()
