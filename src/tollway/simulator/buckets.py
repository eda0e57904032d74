"""True token buckets, as a provider's front door keeps them. Pure: the time is an argument, in monotonic seconds.

A bucket fills continuously at its rate up to its depth; what is refused takes nothing.
"""

import math
from dataclasses import dataclass

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
        """Take units that `level` has shown to be there."""
        self._level -= units

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


class Limits:
    """The two limits of a model: requests and tokens a minute; 0 means none.

    A bucket is `bucket_s` seconds of its rate deep; that of the requests holds at least one, else nothing could pass.
    """

    __slots__ = ("requests", "tokens")

    def __init__(self, rpm: float, tpm: float, bucket_s: float, now: float) -> None:
        self.requests = TokenBucket(rpm, max(1.0, rpm / 60 * bucket_s), now) if rpm else None
        self.tokens = TokenBucket(tpm, tpm / 60 * bucket_s, now) if tpm else None

    def admit(self, tokens: int, now: float) -> Refusal | None:
        """Take one request and its tokens, or refuse and take nothing."""
        requests_wait = self.requests.wait_s(1, now) if self.requests else 0.0
        tokens_wait = self.tokens.wait_s(tokens, now) if self.tokens else 0.0
        if requests_wait > 0 or tokens_wait > 0:
            what = "requests" if requests_wait > tokens_wait else "tokens"
            return Refusal(what, max(requests_wait, tokens_wait))
        if self.requests:
            self.requests.take(1)
        if self.tokens:
            self.tokens.take(tokens)
        return None

    def gauges(self, now: float) -> tuple[Gauge | None, Gauge | None]:
        """How requests and tokens stand at `now`."""
        return _gauge(self.requests, now), _gauge(self.tokens, now)

    def fill(self, now: float) -> None:
        """Make both buckets full."""
        for bucket in (self.requests, self.tokens):
            if bucket:
                bucket.fill(now)


def _gauge(bucket: TokenBucket | None, now: float) -> Gauge | None:
    if bucket is None:
        return None
    level = bucket.level(now)
    return Gauge(int(bucket.per_min), int(level), (bucket.depth - level) / bucket.rate)
