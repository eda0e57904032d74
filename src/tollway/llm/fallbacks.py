"""Whether a tier has lived on fallback routes for long: an alert, once an episode. Pure: the time is an argument."""

from dataclasses import dataclass

LASTING_S = 60.0
CALLS_MIN = 20


@dataclass(slots=True)
class _Episode:
    since: float
    calls: int = 0
    told: bool = False


class FallbackWatch:
    """Hears of every call of a process that came back."""

    def __init__(self) -> None:
        self._episodes: dict[str, _Episode] = {}

    def fell_back(self, tier: str, now: float) -> bool:
        """A call was served in the stead of the tier's first route. True when that has just become an alert."""
        episode = self._episodes.get(tier)
        if episode is None:
            episode = self._episodes[tier] = _Episode(now)
        episode.calls += 1
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
