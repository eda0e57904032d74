"""From which virtual time on a worker's claims read the lines of a lane, so that dead index entries are not read."""

from collections.abc import Sequence

FLOOR_LAG_S = 2.0
WHOLE_EVERY_S = 1.0
WHOLE_EVERY_MAX_S = 30.0
WHOLE_PER_COST = 30.0
SHORT_PER_COST = 5.0
_SMOOTH = 0.1


class Floor:
    """The lowest virtual time seen two seconds ago: below it the index holds mostly dead entries, so it is not read.

    Once a second, and whenever a claim came back short, the whole index is read, so that a line below the floor (a
    newcomer's, or one that was charged too much at first) is not overlooked for longer. Where that has become dear,
    because somebody holds an old snapshot and dead entries pile up, it is done less often, by what it costs.
    """

    def __init__(self) -> None:
        self._floor = 0.0
        self._next = 0.0
        self._next_since = 0.0
        self._whole_at = 0.0
        self._usual_s: float | None = None
        self._may_at = 0.0
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

    def took(self, seconds: float, now: float, *, whole: bool) -> None:
        """How long the claim took that ended now; `whole` if it read all of the index."""
        if not whole:
            usual = seconds if self._usual_s is None else self._usual_s
            self._usual_s = usual + _SMOOTH * (seconds - usual)
            return
        dearer_s = max(0.0, seconds - self._usual_s) if self._usual_s is not None else 0.0
        self._whole_at = now + min(WHOLE_EVERY_MAX_S, max(WHOLE_EVERY_S, WHOLE_PER_COST * dearer_s))
        self._may_at = now + min(WHOLE_EVERY_MAX_S, SHORT_PER_COST * dearer_s)

    def short(self) -> None:
        """A claim brought less than was wanted: look at everything next time, or as soon as that is not too dear."""
        self._whole_at = min(self._whole_at, self._may_at)

    def saw(self, low: float) -> None:
        """Take note of the lowest time seen."""
        self._next = min(self._next, low)
        self._floor = min(self._floor, low)

    def rose(self, level: float, now: float) -> bool:
        """Whether it is worth writing down for newcomers that service stands at `level` now."""
        if level > self._written and now - self._written_at >= WHOLE_EVERY_S:
            self._written, self._written_at = level, now
            return True
        return False
