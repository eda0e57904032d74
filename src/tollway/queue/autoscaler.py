"""How many worker processes one machine runs, look by look: up at once, down slowly. Pure.

    wanted > running                     at once, at most twice as many as run
    wanted < running, for all of hold_s  one fewer, and no other before that one has ended

The most that was wanted within `hold_s` counts, so a load that comes in waves does not have workers come and go.
"""

import re
from collections import deque
from dataclasses import dataclass, field

WORKERS_MAX = 64
_BOUNDS = re.compile(r"(?:(\d{1,4})\.\.)?(\d{1,4})")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the most workers."""

    least: int
    most: int


def parse_bounds(text: str) -> Bounds:
    """`1..4`, or `4` for `1..4`. Raises ValueError with the remedy."""
    match = _BOUNDS.fullmatch(text.strip())
    if match is None:
        raise ValueError("write the least and the most workers, as in 1..4, or the most alone, as in 4")
    least, most = int(match[1] or 1), int(match[2])
    if min(least, most) < 1:
        raise ValueError("at least one worker stays, to publish the agents: begin with 1, as in 1..4")
    if least > most:
        raise ValueError(f"the least comes first: write {most}..{least}")
    if most > WORKERS_MAX:
        raise ValueError(f"{WORKERS_MAX} workers are the most on one machine; start others with `tollway worker`")
    return Bounds(least, most)


@dataclass(frozen=True, slots=True)
class Step:
    """How many workers there shall be, and why."""

    workers: int
    why: str


@dataclass(slots=True)
class Autoscaler:
    """What it remembers between looks: what was wanted when, within `hold_s`."""

    bounds: Bounds
    hold_s: float
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _began: float | None = None

    def look(self, now: float, wanted: int | None, workers: int, ending: int) -> Step:
        """One look: what is wanted (None: not known), how many run, how many are draining still."""
        if self._began is None:
            self._began = now
        goal = workers if wanted is None else min(max(wanted, self.bounds.least), self.bounds.most)
        self._wanted.append((now, goal))
        while self._wanted[0][0] < now - self.hold_s:
            self._wanted.popleft()
        if workers < self.bounds.least:
            return Step(self.bounds.least, "below the least")
        if goal > workers:
            return Step(min(goal, 2 * workers), f"{wanted} wanted")
        highest = max(goal for _, goal in self._wanted)
        if highest < workers and not ending and now - self._began >= self.hold_s:
            return Step(workers - 1, f"at most {highest} wanted for {self.hold_s:g} s")
        return Step(workers, "as wanted")
