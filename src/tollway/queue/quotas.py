"""Quotas of a tenant as pure decisions: a rate of requests, shared by several processes, and tokens a minute and a day.

Time is an argument, in seconds; every refusal is the seconds after which asking again succeeds if nobody else asks.
"""

import math
from collections.abc import Mapping, Sequence

from tollway.domain.spans import DAY_S, MINUTE_S, SLICE_S, day_of

ASKED_OVER_S = 3.0
_FLOOR = 0.1
_EDGE = 1e-9  # what adding up seconds may lose
_SOON_S = 1.0


class RateBucket:
    """A token bucket that holds a second's worth of its rate, at least one request, and starts full.

    In any `t` seconds it lets at most `rate * t + max(1, rate)` through. `asked_per_s` is how often it was asked
    lately, let through or not: what processes tell each other to share a rate.
    """

    __slots__ = ("_asked", "_at", "_level")

    def __init__(self, now: float) -> None:
        self._at = now
        self._level = math.inf
        self._asked = 0.0

    def take(self, now: float, rate: float) -> float:
        """Let one request through: 0.0; or the seconds until one may pass, and then nothing was taken."""
        passed_s = max(0.0, now - self._at)
        self._asked = self._asked * math.exp(-passed_s / ASKED_OVER_S) + 1 / ASKED_OVER_S
        self._at = max(self._at, now)
        self._level = min(max(1.0, rate), self._level + passed_s * rate)
        if self._level >= 1.0 - _EDGE:
            self._level = max(0.0, self._level - 1.0)
            return 0.0
        return (1.0 - self._level) / rate

    def give_back(self) -> None:
        """A request that was let through turned out to ask for nothing new: another one may pass for it."""
        self._level += 1.0

    def asked_per_s(self, now: float) -> float:
        """Requests a second, let through or not, over the last few seconds."""
        return self._asked * math.exp(-max(0.0, now - self._at) / ASKED_OVER_S)


def part_of(rate: float, own: float, others: Sequence[float]) -> float:
    """This process' part of a rate, by what each process was asked (`own`, and one of `others` each) when last told.

    Parts follow demand, and a tenth of the rate is shared out evenly, so that a process which was not asked yet can
    answer. Processes that know the same of each other take the whole rate together, never more.
    """
    if not others:
        return rate
    processes = 1 + len(others)
    floor = max(_FLOOR * rate / processes, 1e-12)
    return rate * (own + floor) / (own + math.fsum(others) + processes * floor)


def minute_use(slices: Mapping[int, int], now: float) -> int:
    """Tokens of the last minute: of all slices (by their begin) that reach into it, so never too few."""
    return sum(tokens for begins, tokens in slices.items() if begins + SLICE_S + MINUTE_S > now)


def minute_opens_in(slices: Mapping[int, int], held: int, limit: int, now: float) -> float:
    """Seconds until less than `limit` tokens are used in a minute, `held` ones under way included; 0.0: now.

    What is under way ends at a moment that nobody knows: where that alone is too much, it is a second.
    """
    used = held + minute_use(slices, now)
    if used < limit:
        return 0.0
    for begins in sorted(slices):
        gone_in = begins + SLICE_S + MINUTE_S - now
        if gone_in > 0:
            used -= slices[begins]
            if used < limit:
                return gone_in
    return _SOON_S


def day_opens_at(used: int, held: int, limit: int, now: float) -> float | None:
    """When a day's tokens are to be had again, epoch seconds: the next UTC midnight; None: now."""
    return None if used + held < limit else float(day_of(now) + DAY_S)
