"""When one process' limiter exchanges next, and what it then asks for. Pure: times are monotonic seconds.

A want counts what is held already: what waits less what is there or promised. What it gives back is taken out of the
purse as it is asked, so that nothing is spent twice.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass

from tollway.hotstate.capacity import NOTHING, Limits, Vector, Want
from tollway.llm.capacity.costs import Counts, Flow
from tollway.llm.capacity.demand import Demand, FlowDemand
from tollway.llm.capacity.holds import Hold
from tollway.llm.capacity.lanes import FairQueue
from tollway.llm.capacity.purse import Purse

IDLE_AFTER_S = 10.0
HEADS_TOLD_MAX = 8
SPACING_S = 0.05
"""Between two exchanges of a route at least, but for refusals and the first demand."""

BUSY_SPARE = 0.1
"""A route of which less than this is spare is busy: what is not used here is wanted elsewhere."""

_SPACING_BUSY_S = 0.25
_UNUSED_S = 0.3
_SAVED_CALLS = 0.5


@dataclass(frozen=True, slots=True)
class LimiterOptions:
    """What a limiter is told of its route: its limits, how its vendor counts, the lanes' shares in the order of
    their precedence."""

    limits: Limits
    counts: Counts
    lanes: Mapping[str, float]


class Waiter:
    """A call that waits, and who is told when it may go."""

    __slots__ = ("charge", "demand", "flow", "future", "ticket")

    def __init__(self, charge: Vector, flow: Flow, demand: FlowDemand, future: "asyncio.Future[Hold]") -> None:
        self.charge = charge
        self.flow = flow
        self.demand = demand
        self.future = future
        self.ticket = -1


class Asking:
    """The limiter's side of the exchange. `at` is when it last asked, and `waited` how many calls waited then."""

    def __init__(
        self, route: str, options: LimiterOptions, purse: Purse, queue: FairQueue[Waiter], demand: Demand
    ) -> None:
        self.at = -math.inf
        self.waited = 0
        self._route = route
        self._limits = options.limits
        self._lanes = dict(options.lanes)
        self._purse = purse
        self._queue = queue
        self._demand = demand
        self._told_short = False
        self._refused_s: float | None = None
        self._told_limits = [0.0, 0.0, 0.0, 0.0]

    def refused(self, wait_s: float) -> None:
        """The vendor refused a call: the others shall know."""
        self._refused_s = max(self._refused_s or 0.0, wait_s)

    def told(self, at: int, per_s: float) -> None:
        """The vendor tells a limit of a dimension."""
        self._told_limits[at] = per_s

    def idle(self, now: float) -> bool:
        """Whether the lease may go."""
        return not len(self._queue) and not self._purse.slots_used and now - self._demand.last > IDLE_AFTER_S

    def want(self, now: float, today: int, *, leaving: bool) -> Want:
        """What to ask for now."""
        purse, queue, demand = self._purse, self._queue, self._demand
        leaving = leaving or self.idle(now)
        purse.bucket.advance(now)
        purse.bucket.call = demand.call
        heads, covered = self._heads()
        held = purse.bucket.rates if purse.bucket.lasts(now) else NOTHING
        missing = zip(demand.waiting(), purse.bucket.promised(), strict=True)
        a, b, c, d = (max(0.0, wanted - got) for wanted, got in missing)
        backlog = purse.bucket.masked((a, b, c, d))
        unused = purse.spare < BUSY_SPARE and now - demand.last >= _UNUSED_S
        give_back = leaving or (not len(queue) and (unused or not any(held)))
        first = queue.head()
        need = first.charge[1] if first else 0.0
        refused_s, self._refused_s = self._refused_s, None
        told, self._told_limits = self._told_limits, [0.0, 0.0, 0.0, 0.0]
        waiting = len(queue) - covered
        self._told_short = waiting > 0 or (self._limits.slots > 0 and purse.slots_used + len(queue) > purse.slots)
        self.at, self.waited = now, len(queue)
        return Want(
            route=self._route,
            limits=self._limits,
            lanes=self._lanes,
            flows=() if leaving else demand.wants(now),
            call=demand.call,
            heads=tuple(heads),
            waiting=waiting,
            backlog=backlog,
            held=held,
            returned=purse.bucket.drain() if give_back else NOTHING,
            slots_used=purse.slots_used,
            throttled_s=refused_s,
            told=(told[0], told[1], told[2], told[3]),
            day=purse.ask_day(need, demand.tokens_per_s, today, leaving=leaving),
            leaving=leaving,
        )

    def failed(self, want: Want) -> None:
        """Nobody heard: what was reported is said again. What was given back is lost, which is safe."""
        if want.throttled_s is not None:
            self.refused(want.throttled_s)

    def soon(self, now: float, today: int) -> float:
        """When to exchange because calls wait; infinite where that would change nothing before the usual time."""
        purse, head = self._purse, self._queue.head()
        if head is None:
            return math.inf
        if not purse.bucket.lasts(now):
            return max(now, self.at + SPACING_S)
        hopeful = purse.saved >= _SAVED_CALLS or not self._told_short
        if hopeful or purse.spare > BUSY_SPARE or purse.short_of_day(head.charge, today):
            return max(now, self.at + (SPACING_S if hopeful else _SPACING_BUSY_S))
        return math.inf

    def unused(self, now: float) -> float:
        """When to exchange because nobody waits here: others may want what is leased; infinite if they do not."""
        if self._purse.spare >= BUSY_SPARE or not any(self._purse.bucket.rates):
            return math.inf
        return max(now, self.at + _UNUSED_S)

    def _heads(self) -> tuple[list[Vector], int]:
        """The next calls less what is held for them, and how many are held for wholly."""
        bucket = self._purse.bucket
        have = list(bucket.promised())
        heads: list[Vector] = []
        covered = 0
        for waiter in self._queue.upcoming(HEADS_TOLD_MAX):
            missing = [max(0.0, wanted - got) for wanted, got in zip(waiter.charge, have, strict=True)]
            head = bucket.masked((missing[0], missing[1], missing[2], missing[3]))
            have = [got + more - paid for got, more, paid in zip(have, missing, waiter.charge, strict=True)]
            if any(head):
                heads.append(head)
            elif not heads:
                covered += 1
        return heads, covered
