"""From which virtual time on a worker's claims read the lines of a lane, so that dead index entries are not read."""

from collections.abc import Sequence

FLOOR_LAG_S = 2.0
WHOLE_EVERY_S = 1.0


class Floor:
    """The lowest virtual time seen two seconds ago: below it the index holds mostly dead entries, so it is not read.

    Once a second, and whenever a claim came back short, the whole index is read, so that a line below the floor (a
    newcomer's, or one that was charged too much at first) is never overlooked for longer.
    """

    def __init__(self) -> None:
        self._floor = 0.0
        self._next = 0.0
        self._next_since = 0.0
        self._whole_at = 0.0
        self._written = 0.0
        self._written_at = 0.0

    def at(self, now: float, agents: Sequence[str]) -> dict[str, float]:
        """The floor to claim with, by agent."""
        if now >= self._whole_at:
            self._whole_at = now + WHOLE_EVERY_S
            return dict.fromkeys(agents, 0.0)
        if now - self._next_since >= FLOOR_LAG_S:
            self._floor, self._next, self._next_since = self._next, float("inf"), now
            if self._floor == float("inf"):
                self._floor = 0.0
        return dict.fromkeys(agents, self._floor)

    def short(self) -> None:
        """A claim brought less than was wanted: look at everything next time."""
        self._whole_at = 0.0

    def saw(self, low: float, now: float) -> float | None:
        """Take note of the lowest time seen; returns it when it is worth writing down for newcomers."""
        self._next = min(self._next, low)
        self._floor = min(self._floor, low)
        if low > self._written and now - self._written_at >= WHOLE_EVERY_S:
            self._written, self._written_at = low, now
            return low
        return None
