"""True token buckets, as a provider's front door keeps them. Pure: the time is an argument, in monotonic seconds.

A bucket fills continuously at its rate up to its depth; what is refused takes nothing.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

_ROUNDING = 1e-6  # units that may be missing by nothing but floating point


class TokenBucket:
    """One bucket: `per_min` units a minute, `depth` units deep, full at `now`."""

    __slots__ = ("_at", "_level", "depth", "per_min", "rate")

    def __init__(self, per_min: float, depth: float, now: float) -> None:
        self.per_min = per_min
        self.rate = per_min / 60
        self.depth = depth
        self._level = depth
        self._at = now

    def level(self, now: float) -> float:
        """Units that can be taken at `now`."""
        elapsed = now - self._at
        if elapsed > 0:
            self._level = min(self.depth, self._level + elapsed * self.rate)
            self._at = now
        return self._level

    def take(self, units: float) -> None:
        """Take units that `level` has shown to be there; fewer than none are given back."""
        self._level = min(self.depth, self._level - units)

    def wait_s(self, units: float, now: float) -> float:
        """Seconds until `units` will be there: 0 if they are, infinite if they are more than the bucket is deep."""
        if units > self.depth:
            return math.inf
        missing = units - self.level(now)
        return missing / self.rate if missing > _ROUNDING else 0.0

    def fill(self, now: float) -> None:
        """Make it full."""
        self._level = self.depth
        self._at = now


@dataclass(frozen=True, slots=True)
class Gauge:
    """One limit as the headers tell it: units a minute, units left, seconds until the bucket is full again."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call was turned away: `what` ran out, and when to come again (infinite: never, it is too large)."""

    what: str
    retry_after_s: float


class Gauges(NamedTuple):
    """How the limits of a model stand; None for one it does not have."""

    requests: Gauge | None = None
    tokens: Gauge | None = None
    input: Gauge | None = None
    output: Gauge | None = None


class Charge(NamedTuple):
    """What one call takes: `tokens` of input and output together, and each apart."""

    tokens: int
    input: int = 0
    output: int = 0


class Rates(NamedTuple):
    """Limits a minute, 0 meaning none: requests, tokens, tokens of input, tokens of output; their depth in seconds."""

    rpm: float = 0
    tpm: float = 0
    tpm_in: float = 0
    tpm_out: float = 0
    bucket_s: float = 1


_NAMES = ("requests", "tokens", "input tokens", "output tokens")


class Limits:
    """The limits of a model.

    A bucket is `bucket_s` seconds of its rate deep; that of the requests holds at least one, else nothing could pass.
    """

    __slots__ = ("_buckets",)

    def __init__(self, rates: Rates, now: float) -> None:
        least = (1.0, 0.0, 0.0, 0.0)
        self._buckets = tuple(
            TokenBucket(rate, max(low, rate / 60 * rates.bucket_s), now) if rate else None
            for rate, low in zip(rates[:4], least, strict=True)
        )

    def admit(self, charge: Charge, now: float) -> Refusal | None:
        """Take one request and its tokens, or refuse and take nothing."""
        asked = (1, *charge)
        waits = [
            bucket.wait_s(units, now) if bucket else 0.0 for bucket, units in zip(self._buckets, asked, strict=True)
        ]
        longest = max(waits)
        if longest > 0:
            # Of two that run out alike the tokens are named, as vendors do.
            return Refusal(_NAMES[max(range(4), key=lambda at: (waits[at], at))], longest)
        for bucket, units in zip(self._buckets, asked, strict=True):
            if bucket:
                bucket.take(units)
        return None

    def correct(self, output: int, now: float) -> None:
        """Give back tokens of output that were reserved and not made."""
        bucket = self._buckets[3]
        if bucket:
            bucket.level(now)
            bucket.take(-output)

    def gauges(self, now: float) -> Gauges:
        """How they stand at `now`."""
        return Gauges(*(_gauge(bucket, now) for bucket in self._buckets))

    def fill(self, now: float) -> None:
        """Make every bucket full."""
        for bucket in self._buckets:
            if bucket:
                bucket.fill(now)


def _gauge(bucket: TokenBucket | None, now: float) -> Gauge | None:
    if bucket is None:
        return None
    level = bucket.level(now)
    return Gauge(int(bucket.per_min), int(level), (bucket.depth - level) / bucket.rate)
