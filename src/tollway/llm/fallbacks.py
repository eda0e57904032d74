"""Whether a tier has lived on fallback routes for long: an alert, once an episode. Pure: the time is an argument."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

LASTING_S = 60.0
CALLS_MIN = 20
QUIET_S = 60.0
"""An episode without a call for so long says nothing of how things stand now."""


@dataclass(slots=True)
class _Episode:
    since: float
    last: float
    calls: int = 0
    told: bool = False


class LivingOn(msgspec.Struct, frozen=True):
    """For how long a tier's calls were served by `route` in the stead of another, and why, as one process sees it."""

    for_s: float
    calls: int = 0
    route: str = ""
    instead_of: str = ""
    reason: str = ""


class FallbackWatch:
    """Hears of every call of a process that came back."""

    def __init__(self) -> None:
        self._episodes: dict[str, _Episode] = {}

    def fell_back(self, tier: str, now: float) -> bool:
        """A call was served in the stead of the tier's first route. True when that has just become an alert."""
        episode = self._episodes.get(tier)
        if episode is None:
            episode = self._episodes[tier] = _Episode(now, now)
        episode.calls += 1
        episode.last = now
        if episode.told or now - episode.since < LASTING_S or episode.calls < CALLS_MIN:
            return False
        episode.told = True
        return True

    def served(self, tier: str) -> bool:
        """A call was served as it should. True when that ends an episode which was an alert."""
        if tier not in self._episodes:
            return False
        return self._episodes.pop(tier).told

    def since(self, tier: str) -> float | None:
        """The monotonic second since which a tier has lived on fallback; None while it does not."""
        episode = self._episodes.get(tier)
        return None if episode is None else episode.since

    def lasting(self, now: float) -> dict[str, tuple[float, int]]:
        """The tiers with an episode that became an alert and still has calls: for how many seconds, and how many."""
        return {
            tier: (now - episode.since, episode.calls)
            for tier, episode in self._episodes.items()
            if episode.told and now - episode.last < QUIET_S
        }


def longest_fallbacks(told: Iterable[Mapping[str, Any]]) -> dict[str, LivingOn]:
    """By tier, the longest that any process tells of; what has another form than ours is left out."""
    longest: dict[str, LivingOn] = {}
    for one in told:
        for tier, facts in one.items():
            try:
                living = msgspec.convert(facts, LivingOn)
            except msgspec.ValidationError:
                continue
            if tier not in longest or living.for_s > longest[tier].for_s:
                longest[tier] = living
    return longest
