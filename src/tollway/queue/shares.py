"""A worker's slots between lanes: what a lane has not needed lately of its share is lent, but for a reserve. Pure.

A lane's reserve is twice the most it ran lately, at least a quarter of its share and at most all of it. So a lane that
wakes finds slots at once, and from then on twice as many as it used, up to its share, as what was lent comes back.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

PEAK_DECAY_S = 60.0
"""In this time a peak that is not reached again falls to about a third."""

RESERVE_PART = 4
RESERVE_PEAKS = 2


@dataclass(slots=True)
class Slots:
    """The slots of one worker: each lane's `shares` of them, what it ran at most lately. `now` is monotonic seconds."""

    slots: int
    shares: Mapping[str, float]
    _peaks: dict[str, tuple[float, float]] = field(default_factory=dict)

    def saw(self, running: Mapping[str, int], now: float) -> None:
        """Take note of what runs, by lane."""
        for lane in self.shares:
            self._peaks[lane] = (max(self._peak(lane, now), running.get(lane, 0)), now)

    def reserve(self, lane: str, now: float) -> int:
        """How many slots of its share a lane has at least, running ones included; the rest may be lent."""
        share = self.share(lane)
        wanted = math.ceil(RESERVE_PEAKS * self._peak(lane, now) - 1e-9)
        return min(share, max(wanted, -(-share // RESERVE_PART)))

    def share(self, lane: str) -> int:
        """The slots guaranteed to a lane."""
        return int(self.shares.get(lane, 0.0) * self.slots + 1e-9)

    def room(self, lane: str, running: Mapping[str, int], now: float) -> int:
        """How many more runs of `lane` may start, given what runs now by lane."""
        self.saw(running, now)
        free = self.slots - sum(running.values())
        kept = sum(max(0, self.reserve(other, now) - running.get(other, 0)) for other in self.shares if other != lane)
        return max(0, free - kept)

    def _peak(self, lane: str, now: float) -> float:
        peak, at = self._peaks.get(lane, (0.0, now))
        return peak * math.exp(-max(0.0, now - at) / PEAK_DECAY_S)
