"""What the door decides of a run that could be taken: whether it would start too late, and how much to turn away while
the process itself has more than it can do. Pure: time and measurements are arguments.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Until when a run has to start, epoch seconds; `max_wait_s` is its lane's, from the moment it is due."""

    due_at: float
    deadline_at: float | None = None
    ttl_end_at: float | None = None
    max_wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Late:
    """The bound that a predicted start misses (`deadline_s`, `ttl_s` or `max_wait_s`), and by how many seconds."""

    bound: str
    by_s: float


def too_late(start_at: float, bounds: Bounds) -> Late | None:
    """The bound that a start misses most, or None if it keeps them all."""
    limits = (
        ("deadline_s", bounds.deadline_at),
        ("ttl_s", bounds.ttl_end_at),
        ("max_wait_s", None if bounds.max_wait_s is None else bounds.due_at + bounds.max_wait_s),
    )
    missed = [Late(name, start_at - at) for name, at in limits if at is not None and start_at >= at]
    return max(missed, key=lambda late: late.by_s, default=None)


@dataclass(frozen=True, slots=True)
class Strain:
    """How late the event loop runs, and how long a new row waits until it is written; seconds."""

    lag_s: float
    write_s: float


class Shedder:
    """The share of requests to turn away, so that the rest is served as usual.

    It rises while the strain is above what is bearable at two looks in a row (one is a hiccup), and falls slowly when
    it is not: a door that opens and shuts wholly would waste what can be served. Looks come some four times a second.
    """

    def __init__(self, bearable: Strain) -> None:
        self._bearable = bearable
        self._before = 0.0
        self._due = 0.0
        self.share = 0.0

    def look(self, strain: Strain) -> None:
        """Take a look."""
        load = max(strain.lag_s / self._bearable.lag_s, strain.write_s / self._bearable.write_s)
        sustained, self._before = min(load, self._before), load
        if sustained > 1.0:
            self.share += (1.0 - self.share) * min(0.5, 0.5 * (sustained - 1.0) + 0.1)
        elif load < 1.0:
            self.share *= 0.8 + 0.15 * load
            if self.share < 0.01:
                self.share = 0.0

    def sheds(self) -> bool:
        """Whether to turn away this request: evenly, by the share."""
        if not self.share:
            return False
        self._due += self.share
        if self._due < 1.0:
            return False
        self._due -= 1.0
        return True
