"""How fast a budget's money goes, and when it will be gone. Pure: times are arguments, epoch seconds.

Two rates are kept of what was spent: the recent one, an exponential mean over about ten minutes, and the mean since the
period began (or since somebody first looked). A forecast begins at the recent rate and falls back to the mean within
about an hour, so that a burst is not taken for the rest of the month, nor a quiet night for a quiet week.
"""

import math
from dataclasses import dataclass, replace

MEMORY_S = 600.0
FADE_S = 3600.0
AGE_S_MIN = 60.0
HORIZON_S = 366 * 86_400.0
STALE_S = 2 * MEMORY_S
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Burn:
    """What was spent of one period of a budget, nano-dollars, at the first look and at the last; and the recent rate.

    `faded` is the exponential mean as it is kept, nano-dollars a second: too low while young, which `recent` mends.
    """

    since: float
    since_nano: int
    at: float
    spent_nano: int
    faded: float = 0.0

    @property
    def recent(self) -> float:
        """Nano-dollars a second, lately."""
        return self.faded / -math.expm1(-max(AGE_S_MIN, self.at - self.since) / MEMORY_S)

    @property
    def mean(self) -> float:
        """Nano-dollars a second, since the first look."""
        return max(0, self.spent_nano - self.since_nano) / max(AGE_S_MIN, self.at - self.since)

    def after(self, at: float, spent_nano: int) -> "Burn":
        """The same, seen again at a later time. What was given back meanwhile is no negative rate."""
        passed_s = at - self.at
        if passed_s <= 0:
            return self
        rate = max(0, spent_nano - self.spent_nano) / passed_s
        faded = self.faded + (rate - self.faded) * -math.expm1(-passed_s / MEMORY_S)
        return Burn(self.since, self.since_nano, at, spent_nano, faded)

    @property
    def at_rest(self) -> bool:
        """Whether nothing was spent for so long that it need not be kept anew while that stays so."""
        return self.faded < 1

    def rested(self, until: float) -> "Burn":
        """The same, if at rest, seen unchanged at a later time: what goes then is not spread over the rest."""
        return replace(self, at=until) if self.at_rest and until > self.at else self

    def projected_nano(self, at: float) -> int:
        """What will have been spent at a later time, as things stand."""
        ahead_s = max(0.0, at - self.at)
        fading = (self.recent - self.mean) * FADE_S * -math.expm1(-ahead_s / FADE_S)
        return self.spent_nano + round(self.mean * ahead_s + fading)

    def exhausts_at(self, limit_nano: int) -> float | None:
        """When so much will have been spent; None: not within a year, as things stand."""
        if self.spent_nano >= limit_nano:
            return self.at
        late_s = HORIZON_S
        if self.projected_nano(self.at + late_s) < limit_nano:
            return None
        early_s = 0.0
        for _ in range(_HALVINGS):
            middle_s = (early_s + late_s) / 2
            if self.projected_nano(self.at + middle_s) < limit_nano:
                early_s = middle_s
            else:
                late_s = middle_s
        return self.at + late_s


@dataclass(frozen=True, slots=True)
class Forecast:
    """What to show of a budget: nano-dollars an hour lately, and when its money is gone (None: not in this period)."""

    nano_per_hour: int
    exhausts_at: float | None


def first_look(at: float, spent_nano: int) -> Burn:
    """A period of a budget seen for the first time."""
    return Burn(at, spent_nano, at, spent_nano)


def forecast(burn: Burn | None, limit_nano: int | None, ends_at: float | None) -> Forecast | None:
    """What to show; None while nobody looked twice. `ends_at` None: the period has no end."""
    if burn is None or burn.at <= burn.since:
        return None
    gone_at = None if limit_nano is None else burn.exhausts_at(limit_nano)
    if gone_at is not None and ends_at is not None and gone_at >= ends_at:
        gone_at = None
    return Forecast(round(burn.recent * 3600), gone_at)
