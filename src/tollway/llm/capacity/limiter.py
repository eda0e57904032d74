"""The limiter of one route in one process: who may call now, who waits, and what to ask the other processes for.

Every decision is local and by what is leased (P9); `Capacity` carries wants out and grants in. Who waits is served
fairly between flows, and never more is spent than was granted.
"""

import asyncio
import math
from collections.abc import Callable

from tollway.domain.clock import Clock
from tollway.domain.errors import LlmError
from tollway.hotstate.capacity import DIMENSIONS, NOTHING, Grant, Vector, Want
from tollway.hotstate.handouts import DAY_S
from tollway.llm.capacity.asking import BUSY_SPARE, SPACING_S, Asking, LimiterOptions, Waiter
from tollway.llm.capacity.costs import Cost, Flow, front_charge
from tollway.llm.capacity.demand import Demand, FlowDemand
from tollway.llm.capacity.holds import Hold
from tollway.llm.capacity.lanes import FairQueue
from tollway.llm.capacity.meter import Meter
from tollway.llm.capacity.purse import Purse

_TIMER_MIN_S = 0.001
_EMPTIED_EVERY_S = 1.0
_PAUSE_MAX_S = 60.0
_GROWN = 2
"""A share given when far fewer calls waited says nothing of these: a process just started holds next to nothing."""


class Limiter:
    """One route's limits in this process. `due_at`: when it wants to exchange next (monotonic seconds)."""

    def __init__(self, route: str, options: LimiterOptions, clock: Clock, wake: Callable[[], None]) -> None:
        """`wake` is called when `due_at` came nearer."""
        now = clock.monotonic()
        self.route = route
        self.limits = options.limits
        self.counts = options.counts
        self.throttled_total = 0
        self.due_at = math.inf
        self._clock = clock
        self._wake = wake
        self._purse = Purse(options.limits, now)
        self._queue: FairQueue[Waiter] = FairQueue(options.lanes)
        self._demand = Demand(now)
        self._meter = Meter()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._asking = Asking(route, options, self._purse, self._queue, self._demand)
        self._emptied_at = -math.inf
        self._factor = 1.0

    # what the governor calls

    def try_take(self, cost: Cost, flow: Flow) -> Hold | None:
        """Capacity for a call at once, if nobody waits and there is room."""
        if len(self._queue):
            return None
        now = self._clock.monotonic()
        charge = front_charge(cost, self.counts)
        self._purse.bucket.advance(now)
        if not self._purse.affords(charge, now, self._today()):
            return None
        return self._hand(charge, self._demand.came(flow, charge, now), now)

    async def take(self, cost: Cost, flow: Flow, deadline: float) -> Hold:
        """Wait fairly for capacity until `deadline` (monotonic seconds).

        Raises LlmError `no_capacity`, with `retry_after_s`, at the deadline or as soon as the day's tokens are spent.
        """
        hold = self.try_take(cost, flow)
        if hold is not None:
            return hold
        now = self._clock.monotonic()
        charge = front_charge(cost, self.counts)
        if self._purse.exhausted(charge, self._today()) or deadline <= now:
            raise self._no_capacity(charge)
        loop = asyncio.get_running_loop()
        waiter = Waiter(charge, flow, self._demand.came(flow, charge, now), loop.create_future())
        waiter.demand.wait(charge)
        waiter.ticket = self._queue.push(flow, waiter, self._size(charge))
        if len(self._queue) == 1:
            self._purse.bucket.waited = self._largest(charge)
        self._come_by(self._asking.soon(now, self._today()))
        self._arm(now)
        patience = loop.call_later(deadline - now, self._give_up, waiter)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                waiter.future.result().release()
            else:
                self._drop(waiter)
            raise
        finally:
            patience.cancel()

    def wait_s(self, cost: Cost) -> float:
        """How long a call would wait now: 0 if not at all, infinite if the day's tokens are spent (`opens_at`)."""
        now = self._clock.monotonic()
        charge = front_charge(cost, self.counts)
        purse = self._purse
        if purse.exhausted(charge, self._today()):
            return math.inf
        purse.bucket.advance(now)
        if not len(self._queue):
            if purse.affords(charge, now, self._today()):
                return 0.0
            if purse.spare > BUSY_SPARE and not any(purse.bucket.rates):  # there is some to be had elsewhere
                return max(0.0, purse.paused_until - now)
        waiting = self._demand.waiting()
        ahead = (waiting[0] + charge[0], waiting[1] + charge[1], waiting[2] + charge[2], waiting[3] + charge[3])
        news = len(self._queue) > _GROWN * self._asking.waited
        return purse.predicted_s(ahead, len(self._queue) + 1, now, whole=news)

    @property
    def headroom(self) -> float:
        """How much of the route nobody wants just now, over all processes: 0 to 1."""
        purse, now = self._purse, self._clock.monotonic()
        if len(self._queue) or now < purse.paused_until or self.opens_at is not None:
            return 0.0
        spare = purse.spare if purse.bucket.lasts(now) else 1.0
        if self.limits.slots and purse.slots:
            spare = min(spare, 1 - min(1.0, purse.slots_used / purse.slots))
        return spare

    @property
    def opens_at(self) -> float | None:
        """When the route opens again, if its tokens of the day are spent; seconds since the epoch."""
        return self._purse.opens_at(self._today())

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return len(self._queue)

    def throttled(self, retry_after_s: float | None) -> None:
        """The vendor refused a call for its limits: pause, and have all processes slow down."""
        now = self._clock.monotonic()
        self.throttled_total += 1
        wait_s = min(retry_after_s or 0.0, _PAUSE_MAX_S)
        self._purse.bucket.advance(now)
        self._purse.bucket.empty()
        self._purse.paused_until = max(self._purse.paused_until, now + wait_s)
        self._asking.refused(wait_s)
        self._come_by(now)
        self._arm(now)

    def told(self, dimension: str, per_min: float | None, remaining: float | None) -> None:
        """What the vendor's headers say of one of DIMENSIONS. Below the configured limit, its own holds for a minute.

        When nothing remains, nothing is saved up here either. That is no reason to pause: the bucket fills steadily,
        and a vendor that wants a pause refuses.
        """
        at = DIMENSIONS.index(dimension)
        if per_min is not None and 0 < per_min / 60 < self.limits.rates[at]:
            self._asking.told(at, per_min / 60)
        now = self._clock.monotonic()
        if remaining == 0 and self.limits.rates[at] and now - self._emptied_at >= _EMPTIED_EVERY_S:
            self._emptied_at = now
            self._purse.bucket.advance(now)
            self._purse.bucket.empty()

    def shown(self) -> dict[str, object]:
        """For display: limits and use a minute, what this process leases, who waits."""
        purse, now = self._purse, self._clock.monotonic()
        minute = dict(zip(DIMENSIONS, (rate * 60 for rate in self.limits.rates), strict=True))
        leased = purse.bucket.rates if purse.bucket.lasts(now) else NOTHING
        return {
            "route": self.route,
            "limits": {
                **{name: limit for name, limit in minute.items() if limit},
                **({"concurrency": self.limits.slots} if self.limits.slots else {}),
                **({"tokens_per_day": self.limits.day_tokens} if self.limits.day_tokens else {}),
            },
            "leased": {
                **{name: rate * 60 for name, rate in zip(DIMENSIONS, leased, strict=True) if minute[name]},
                **({"concurrency": purse.slots} if self.limits.slots else {}),
            },
            "used": dict(zip(DIMENSIONS, self._meter.used(now), strict=True)),
            "in_use": purse.slots_used,
            "waiting": len(self._queue),
            "headroom": self.headroom,
            "throttled_total": self.throttled_total,
            "factor": self._factor,
            "paused_s": max(0.0, purse.paused_until - now),
            "opens_at": self.opens_at,
        }

    def ended(self, hold: Hold, back: Vector) -> None:
        """Implements `Holder`."""
        now = self._clock.monotonic()
        demand = hold.tag
        assert isinstance(demand, FlowDemand)
        demand.running -= 1
        if back is not NOTHING:
            self._purse.correct(back)
            a, b, c, d = back
            self._meter.add((-a, -b, -c, -d), now)
        if self._purse.end_call(now - hold.since):
            self._come_by(max(now, self._asking.at + SPACING_S))
        if len(self._queue):
            self._serve(now)

    # what the exchange calls

    @property
    def leasing(self) -> bool:
        """Whether it may hold a lease."""
        return self._asking.at > -math.inf

    def want(self, now: float, *, leaving: bool = False) -> Want:
        """What to ask for. What it gives back is taken out here already."""
        self.due_at = math.inf
        return self._asking.want(now, self._today(), leaving=leaving)

    def granted(self, want: Want, grant: Grant, now: float, chance: float) -> None:
        """Take what the last `want` asked for; `chance` (0 to 1) spreads the next exchange."""
        self._purse.granted(grant, self._asking.at, now)
        self._queue.weigh(grant.weights)
        self._factor = grant.factor
        if not want.leaving:
            self.due_at = min(self.due_at, now + grant.next_s * (0.85 + 0.3 * chance if grant.next_s >= 0.5 else 1.0))
        self._serve(now)
        if want.leaving and (len(self._queue) or self._demand.last > self._asking.at):
            self._come_by(now)
        else:
            self._come_by(self._asking.soon(now, self._today()))

    def unanswered(self, want: Want, retry_at: float) -> None:
        """The exchange failed. What it gave back is lost; what it reported is said again."""
        self._asking.failed(want)
        self.due_at = retry_at

    def news(self, due_at: float) -> None:
        """Another process misses its share: exchange, if there is anything to give or to gain."""
        if self.due_at < math.inf:
            self._come_by(max(due_at, self._asking.at + SPACING_S / 2))

    # how it decides

    def _hand(self, charge: Vector, demand: FlowDemand, now: float) -> Hold:
        self._purse.pay(charge)
        self._meter.add(charge, now)
        demand.running += 1
        return Hold(self, charge, now, demand)

    def _serve(self, now: float) -> None:
        """Hand capacity to whoever is next, as long as there is some; then wait for more."""
        queue, purse, today = self._queue, self._purse, self._today()
        while (head := queue.head()) is not None:
            if head.future.done():  # cancelled, and its task has not run yet
                queue.discard(head.flow, head.ticket)
                head.demand.wait(head.charge, -1)
                continue
            purse.bucket.waited = self._largest(head.charge)
            purse.bucket.advance(now)
            if purse.exhausted(head.charge, today):
                queue.pop()
                head.demand.wait(head.charge, -1)
                head.future.set_exception(self._no_capacity(head.charge))
            elif purse.affords(head.charge, now, today):
                queue.pop()
                head.demand.wait(head.charge, -1)
                head.future.set_result(self._hand(head.charge, head.demand, now))
            else:
                break
        else:
            purse.bucket.waited = None
            self._come_by(self._asking.unused(now))
        self._arm(now)

    def _arm(self, now: float) -> None:
        """Come back when the next call will be affordable, if that is to be seen."""
        head = self._queue.head()
        ready_at = math.inf
        if head is not None and not (self.limits.slots and self._purse.slots_used >= self._purse.slots):
            ready_at = max(self._purse.ready_at(head.charge), now + _TIMER_MIN_S)
        if self._timer is not None:
            if ready_at == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        self._timer_at = ready_at
        if ready_at < math.inf:
            self._timer = asyncio.get_running_loop().call_later(ready_at - now, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self._clock.monotonic()
        self._serve(now)
        self._come_by(self._asking.soon(now, self._today()))

    def _come_by(self, at: float) -> None:
        if at < self.due_at:
            self.due_at = at
            self._wake()

    def _give_up(self, waiter: Waiter) -> None:
        if not waiter.future.done():
            error = self._no_capacity(waiter.charge)
            self._drop(waiter)
            waiter.future.set_exception(error)

    def _drop(self, waiter: Waiter) -> None:
        """One waits no longer; perhaps the next one is affordable."""
        if self._queue.discard(waiter.flow, waiter.ticket):
            waiter.demand.wait(waiter.charge, -1)
            self._serve(self._clock.monotonic())

    def _no_capacity(self, charge: Vector) -> LlmError:
        today = self._today()
        if self._purse.exhausted(charge, today):
            wait_s = max(0.0, (today + 1) * DAY_S - self._clock.now())
            message = "the route's tokens of the day are spent"
            return LlmError("no_capacity", message, route=self.route, retry_after_s=wait_s)
        now = self._clock.monotonic()
        wait_s = self._purse.predicted_s(self._demand.waiting(), len(self._queue), now)
        message = f"the limits of the route leave no room in time; about {wait_s:.1f} s of calls are waiting"
        return LlmError("no_capacity", message, route=self.route, retry_after_s=wait_s)

    def _largest(self, charge: Vector) -> Vector:
        large = self._demand.large
        return (1.0, max(charge[1], large[1]), max(charge[2], large[2]), max(charge[3], large[3]))

    def _size(self, charge: Vector) -> float:
        """A call's part of the limit, in seconds of it; of slots alone, each call is one."""
        return max(
            (value / limit for value, limit in zip(charge, self.limits.rates, strict=True) if limit > 0), default=1.0
        )

    def _today(self) -> int:
        return int(self._clock.now() // DAY_S) if self.limits.day_tokens else 0
