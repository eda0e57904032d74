"""The limiter of a route without limits: everything may go at once; it counts, and heeds a vendor that says wait."""

import asyncio

from tollway.domain.clock import Clock
from tollway.domain.errors import LlmError
from tollway.hotstate.capacity import DIMENSIONS, NOTHING, Limits, Vector
from tollway.llm.capacity.costs import Cost, Counts, Flow, charge_of
from tollway.llm.capacity.holds import Hold
from tollway.llm.capacity.meter import Meter

_PAUSE_MAX_S = 60.0


class OpenLimiter:
    """Has what `Limiter` has for the governor, and no exchange."""

    limits = Limits()
    counts: Counts = "actual"
    opens_at: float | None = None

    def __init__(self, route: str, clock: Clock) -> None:
        self.route = route
        self.throttled_total = 0
        self._clock = clock
        self._meter = Meter()
        self._in_use = 0
        self._waiting = 0
        self._paused_until = 0.0

    def try_take(self, cost: Cost, flow: Flow) -> Hold | None:
        """The right to call, unless the vendor asked to wait."""
        now = self._clock.monotonic()
        if now < self._paused_until:
            return None
        charge = charge_of(cost.input_tokens, cost.output_tokens)
        self._meter.add(charge, now)
        self._in_use += 1
        return Hold(self, charge, now)

    async def take(self, cost: Cost, flow: Flow, deadline: float) -> Hold:
        """Wait out the vendor's wish. Raises LlmError `no_capacity` when that is later than `deadline`."""
        while (hold := self.try_take(cost, flow)) is None:
            now = self._clock.monotonic()
            wait_s = self._paused_until - now
            if now + wait_s > deadline:
                message = "the vendor asked for a pause that lasts too long"
                raise LlmError("no_capacity", message, route=self.route, retry_after_s=wait_s)
            self._waiting += 1
            try:
                await asyncio.sleep(wait_s)
            finally:
                self._waiting -= 1
        return hold

    def wait_s(self, cost: Cost) -> float:
        """What is left of the pause the vendor asked for."""
        return max(0.0, self._paused_until - self._clock.monotonic())

    @property
    def headroom(self) -> float:
        """All of it, but in a pause."""
        return 0.0 if self._clock.monotonic() < self._paused_until else 1.0

    @property
    def waiting(self) -> int:
        """Calls that wait for the end of a pause."""
        return self._waiting

    def throttled(self, retry_after_s: float | None) -> None:
        """The vendor refused a call for limits of its own: no more of them until it says."""
        self.throttled_total += 1
        wait_s = min(retry_after_s or 0.0, _PAUSE_MAX_S)
        self._paused_until = max(self._paused_until, self._clock.monotonic() + wait_s)

    def told(self, dimension: str, per_min: float | None, remaining: float | None) -> None:
        """Limits that are not configured are the vendor's own affair."""

    def shown(self) -> dict[str, object]:
        """For display, in the form of `Limiter.shown`."""
        now = self._clock.monotonic()
        return {
            "route": self.route,
            "limits": {},
            "leased": {},
            "used": dict(zip(DIMENSIONS, self._meter.used(now), strict=True)),
            "in_use": self._in_use,
            "waiting": self._waiting,
            "headroom": self.headroom,
            "throttled_total": self.throttled_total,
            "factor": 1.0,
            "paused_s": max(0.0, self._paused_until - now),
            "opens_at": None,
        }

    def ended(self, hold: Hold, back: Vector) -> None:
        """Implements `Holder`."""
        self._in_use -= 1
        if back is not NOTHING:
            a, b, c, d = back
            self._meter.add((-a, -b, -c, -d), self._clock.monotonic())
