"""What this process may spend of one route now: its bucket, its slots, its slice of the day. Pure.

Times are monotonic seconds, but for the day, which is the database's.
"""

import math

from tollway.hotstate.capacity import NOTHING, DayWant, Grant, Limits, Vector
from tollway.hotstate.handouts import DAY_S
from tollway.llm.capacity.bucket import Bucket

DAY_COMFORT_S = 30.0
_DAY_LOW = 0.05
_SMOOTH = 0.1


class Purse:
    """One process' part of a route. `pay` what `affords` has shown to be there."""

    __slots__ = (
        "_day", "_day_left", "_day_tokens", "_limits", "_single", "bucket", "call_s", "paused_until", "saved", "share",
        "slots", "slots_used", "spare",
    )  # fmt: skip

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self.bucket = Bucket(limits.rates, limits.burst_s, now)
        self.slots = 0
        self.slots_used = 0
        self._single = 0
        self._day = -1
        self._day_tokens = 0.0
        self._day_left = math.inf
        self.paused_until = 0.0
        self.share: Vector = NOTHING
        self.spare = 1.0
        self.saved = 0.0
        self.call_s = 0.0

    def affords(self, charge: Vector, now: float, today: int) -> bool:
        """Whether a call may be sent now; the bucket was advanced to `now`."""
        if now < self.paused_until or not self.bucket.fits(charge):
            return False
        if self._limits.slots and (self.slots_used >= self.slots or not self.bucket.lasts(now)):
            return False
        return not self._limits.day_tokens or self._day_has(charge, today)

    def pay(self, charge: Vector) -> None:
        """A call is sent."""
        self.bucket.take(charge)
        self.slots_used += 1
        self._day_tokens -= charge[1]

    def correct(self, back: Vector) -> None:
        """What was charged too much comes back; what is below 0 was too little."""
        self.bucket.give(back)
        self._day_tokens += back[1]

    def end_call(self, lasted_s: float) -> bool:
        """A call has ended; whether its slot is to be handed back at once."""
        self.slots_used -= 1
        self.call_s += (lasted_s - self.call_s) * (_SMOOTH if self.call_s else 1.0)
        if self._single <= 0:
            return False
        self._single -= 1
        self.slots -= 1
        return True

    def exhausted(self, charge: Vector, today: int) -> bool:
        """Whether the day's tokens do not suffice for this call, here or elsewhere."""
        return bool(self._limits.day_tokens) and not self._day_has(charge, today) and self._day_left < charge[1]

    def ready_at(self, charge: Vector) -> float:
        """When the bucket will have the charge, pauses regarded; infinite if that is not to be seen."""
        return max(self.bucket.ready_at(charge), self.paused_until)

    def short_of_day(self, charge: Vector, today: int) -> bool:
        """Whether another slice of the day is needed for this call."""
        return bool(self._limits.day_tokens) and not self._day_has(charge, today)

    def predicted_s(self, ahead: Vector, calls: int, now: float, *, whole: bool = False) -> float:
        """Seconds until all of `ahead`, `calls` in number, will have been sent at the present rates.

        With `whole`, at those of the whole limit: the least that it can take.
        """
        rates = self.bucket.rates if any(self.bucket.rates) and self.bucket.lasts(now) else self.share
        if whole:
            rates = self._limits.rates
        longest = max(0.0, self.paused_until - now)
        missing = zip(ahead, self.bucket.promised(), rates, self._limits.rates, strict=True)
        for wanted, have, rate, limit in missing:
            if limit > 0 and wanted > have:
                longest = max(longest, (wanted - have) / (rate if rate > 0 else limit))
        if self._limits.slots and self.slots_used >= self.slots > 0:
            longest = max(longest, calls * self.call_s / self.slots)
        return longest

    def ask_day(self, need: float, tokens_per_s: float, today: int, *, leaving: bool) -> DayWant | None:
        """What of the day to ask for, and what of it to give back: near the end of the day's tokens, or on leaving."""
        if not self._limits.day_tokens:
            return None
        if today != self._day:
            return DayWant(today, need, tokens_per_s * DAY_COMFORT_S)
        comfort = tokens_per_s * DAY_COMFORT_S
        keep = 0.0 if leaving else need + comfort
        returned = 0.0
        if leaving or self._day_left < self._limits.day_tokens * _DAY_LOW:
            returned = max(0.0, self._day_tokens - keep)
            self._day_tokens -= returned
        have = max(0.0, self._day_tokens)
        return DayWant(today, max(0.0, need - self._day_tokens), max(0.0, comfort - have), returned)

    def granted(self, grant: Grant, asked: float, now: float) -> None:
        """Take a grant that was asked for at one time and is there now."""
        bucket = self.bucket
        bucket.lease(grant.rates, asked + grant.ttl_s, asked, now)
        bucket.give(grant.amount)
        for promise in grant.later:
            bucket.promise((asked + now) / 2 + promise.in_s, promise.amount)
        self.slots, self._single = grant.slots, grant.slots_single
        self.share, self.spare, self.saved = grant.share, grant.spare, grant.saved
        if grant.paused_s > 0:
            self.paused_until = max(self.paused_until, now + grant.paused_s)
        if grant.day is not None:
            if grant.day.day != self._day:
                self._day, self._day_tokens = grant.day.day, 0.0
            self._day_tokens += grant.day.tokens
            self._day_left = grant.day.left

    def opens_at(self, today: int) -> float | None:
        """When the next day begins, if this one's tokens do not suffice for a usual call; seconds since the epoch."""
        left = max(self._day_left, self._day_tokens)
        if not self._limits.day_tokens or self._day != today or left >= max(1.0, self.bucket.call[1]):
            return None
        return float((self._day + 1) * DAY_S)

    def _day_has(self, charge: Vector, today: int) -> bool:
        if today != self._day:
            self._day_left = math.inf
            return False
        return self._day_tokens >= charge[1]
