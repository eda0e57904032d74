"""The part of a route's fluid that this process may spend now. Pure: times are monotonic seconds.

It accrues at the leased rates while the lease lasts, by elapsed time and not by ticks, up to a small burst; promised
amounts come in when they are due; a settlement may take it below nothing, which is then paid off first.
"""

import math
from collections import deque
from collections.abc import Sequence

from tollway.hotstate.capacity import NOTHING, Vector

BURST = 0.25
"""Of the vendor's burst, what the processes together may save up in their buckets."""

_ROUNDING = 1e-6


class Bucket:
    """Levels in the dimensions that are limited; the others never bind."""

    __slots__ = ("_at", "_dims", "_due", "_level", "_rates", "_seconds", "_until", "call", "waited")

    def __init__(self, limits: Vector, burst_s: float, now: float) -> None:
        self._dims = tuple(at for at, limit in enumerate(limits) if limit > 0)
        self._seconds = BURST * burst_s
        self._level = [0.0, 0.0, 0.0, 0.0]
        self._rates: Vector = NOTHING
        self._at = now
        self._until = now
        self._due: deque[tuple[float, Vector]] = deque()
        self.call: Vector = NOTHING
        """A usual call: as much may be saved up in any case."""
        self.waited: Vector | None = None
        """While calls wait, the largest of them: room is kept for it, and for a late timer besides.

        Not only for the next one: while small calls go, the tokens of a large one behind them are saved up.
        """

    @property
    def level(self) -> Vector:
        """What is there, as of the last `advance`."""
        a, b, c, d = self._level
        return (a, b, c, d)

    @property
    def rates(self) -> Vector:
        """What it accrues a second while the lease lasts."""
        return self._rates

    def lasts(self, now: float) -> bool:
        """Whether the lease has not run out."""
        return now < self._until

    def masked(self, charge: Vector) -> Vector:
        """The charge, 0 where there is no limit."""
        dims = self._dims
        a, b, c, d = (value if at in dims else 0.0 for at, value in enumerate(charge))
        return (a, b, c, d)

    def advance(self, now: float) -> None:
        """Accrue up to `now`."""
        lasted = min(now, self._until) - self._at
        if lasted > 0 and self._dims:
            level, rates, call, waited = self._level, self._rates, self.call, self.waited
            for at in self._dims:
                rate = rates[at]
                if rate > 0:
                    burst = rate * self._seconds
                    most = burst + waited[at] if waited is not None else max(burst, call[at])
                    if level[at] < most:
                        level[at] = min(most, level[at] + rate * lasted)
        self._at = max(self._at, now)
        while self._due and self._due[0][0] <= now:
            self._add(self._due.popleft()[1])

    def fits(self, charge: Vector) -> bool:
        """Whether the charge is there, as of the last `advance`."""
        level = self._level
        return all(level[at] >= charge[at] - _ROUNDING for at in self._dims)

    def take(self, charge: Vector) -> None:
        """Take it, there or not."""
        level = self._level
        for at in self._dims:
            level[at] -= charge[at]

    def give(self, charge: Vector) -> None:
        """Put it back."""
        self._add(charge)

    def ready_at(self, charge: Vector) -> float:
        """When the charge will be there, as far as can be seen from the last `advance`; infinite if not so."""
        level = list(self._level)
        since = self._at
        for due, amount in (*self._due, (math.inf, NOTHING)):
            longest = 0.0
            for at in self._dims:
                missing = charge[at] - level[at]
                if missing > _ROUNDING:
                    longest = max(longest, missing / self._rates[at] if self._rates[at] > 0 else math.inf)
            ready = since + longest
            if ready <= due and (ready <= self._until or longest == 0):
                return ready
            if due is math.inf:
                break
            for at in self._dims:
                level[at] += self._rates[at] * max(0.0, min(due, self._until) - since) + amount[at]
            since = due
        return math.inf

    def lease(self, rates: Vector, until: float, asked: float, now: float) -> None:
        """New rates until a time. What shrank holds from when it was asked, what grew from now: never too much."""
        self.advance(now)
        overlap = max(0.0, min(now, self._until) - asked)
        for at in self._dims:
            if rates[at] < self._rates[at]:
                self._level[at] -= (self._rates[at] - rates[at]) * overlap
        self._rates = rates
        self._until = until

    def promise(self, due: float, amount: Vector) -> None:
        """An amount that may be spent from `due` on."""
        self._due.append((due, amount))
        if len(self._due) > 1 and self._due[-2][0] > due:
            self._due = deque(sorted(self._due))

    def promised(self) -> Vector:
        """What is there and what is promised."""
        a, b, c, d = (sum(column) for column in zip(self._level, *(amount for _, amount in self._due), strict=True))
        return (a, b, c, d)

    def empty(self) -> None:
        """The vendor's bucket turned out to be empty: nothing is saved up here either."""
        self._level = [min(level, 0.0) for level in self._level]

    def drain(self) -> Vector:
        """Take out all that is there and promised, to be given back."""
        left = [max(0.0, level) for level in self.promised()]
        self._level = [min(0.0, level) for level in self._level]
        self._due.clear()
        return (left[0], left[1], left[2], left[3])

    def _add(self, amount: Sequence[float]) -> None:
        level = self._level
        for at in self._dims:
            level[at] += amount[at]
