"""When a run that enters a lane now will start, from what stands in the lane and how fast it is served. Pure.

Fair service is a fluid: every line with a backlog is served by its weight. A run's virtual start is its line's end, or
where service stands if that is further (the tags of start-time fair queueing, see `fair`); it starts when every line
was served up to there:

    after(v) = T  where  sum over lines of min(work + arrivals * T, weight * v)  =  rate * T

The left side is a sorted list with sums, so a question costs microseconds. What arrives meanwhile is part of it, else a
lane whose other tenants keep coming would look quicker than it is.
"""

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, repeat
from operator import mul, sub

HORIZONS_S = (0.0, *(0.5 * 3.0**step for step in range(11)))
"""Moments for which the lines are summed up, each when it is first needed; between two it is a straight line."""


@dataclass(frozen=True, slots=True)
class LineLoad:
    """A line: the cost of its runnable runs and of what enters it a second, its weight, the cost of one run.

    `entered` is what is known to have entered it since the snapshot. Costs are in any one unit: nano-dollars, or runs
    where all cost the same.
    """

    work: float
    weight: float
    arrivals: float = 0.0
    run: float = 1.0
    entered: float = 0.0


class _Sums:
    """All lines as they stand at one moment, had nothing been served: the work to be done up to a virtual time."""

    __slots__ = ("_done", "_weights", "ends")

    def __init__(self, lines: Sequence[LineLoad], at: float) -> None:
        ends = [(line.work + line.arrivals * at) / line.weight for line in lines]
        order = sorted(range(len(ends)), key=ends.__getitem__)  # twice as quick as sorting pairs
        weights = [lines[place].weight for place in order]
        self.ends = [ends[place] for place in order]
        self._done: list[float] = [0.0, *accumulate(map(mul, self.ends, weights))]
        total = sum(weights)
        self._weights: list[float] = [total, *map(sub, repeat(total), accumulate(weights))]

    def upto(self, virtual: float) -> float:
        """The work until every line is served up to a virtual time."""
        at = bisect_right(self.ends, virtual)
        return self._done[at] + max(0.0, self._weights[at]) * virtual

    def reached(self, work: float) -> float:
        """The virtual time that service has come to with this work; that of the last line if there is less."""
        at = bisect_right(range(len(self.ends)), work, key=self._at_end_of)
        if at >= len(self.ends):
            return self.ends[-1] if self.ends else 0.0
        return (work - self._done[at]) / self._weights[at]

    def _at_end_of(self, place: int) -> float:
        return self._done[place + 1] + self.ends[place] * self._weights[place + 1]


class LaneFluid:
    """The fluid of one lane: from virtual times to seconds after the snapshot, and back.

    `rate` is the cost served a second, above 0; `free` the cost that starts at once, since slots stand ready for it.
    """

    def __init__(self, lines: Sequence[LineLoad], rate: float, free: float = 0.0) -> None:
        self._lines = lines
        self._rate = rate
        self._free = free
        self._sums: dict[int, _Sums] = {}
        self.needed: set[int] = set()
        self._hint = 1
        self._steady = not any(line.arrivals for line in lines)

    def prepare(self, needed: Iterable[int] | None) -> Iterator[None]:
        """Sum up beforehand, one moment at each turn: those that were `needed` before, or all."""
        for at in (0,) if self._steady else range(len(HORIZONS_S)) if needed is None else sorted(needed):
            self._sums[at] = _Sums(self._lines, HORIZONS_S[at])
            yield

    def after(self, virtual: float, own: LineLoad | None = None) -> float:
        """Seconds after the snapshot when service reaches a virtual time.

        `own` is the line that asks, with the work that is known to have entered it since.
        """
        if self._steady:
            return self._needed(0, virtual, own)
        low = self._first_reached(virtual, own)
        needed_s, moment_s = self._needed(low, virtual, own), HORIZONS_S[low]
        if low == 0 or needed_s > moment_s:
            return needed_s
        before_s = HORIZONS_S[low - 1]
        gap, gap_next = self._needed(low - 1, virtual, own) - before_s, needed_s - moment_s
        return before_s + (moment_s - before_s) * gap / (gap - gap_next) if gap > gap_next else moment_s

    def _first_reached(self, virtual: float, own: LineLoad | None) -> int:
        """The first moment by which it is reached, or the last of all. Most questions want the same as the one before,
        or one beside it."""
        low, high = 0, len(HORIZONS_S) - 1
        at, beside = min(self._hint, high - 1), True
        while low < high:
            if self._needed(at, virtual, own) <= HORIZONS_S[at]:
                high, near = at, at - 1
            else:
                low, near = at + 1, at + 1
            at = min(max(near if beside else (low + high) // 2, low), max(low, high - 1))
            beside = False
        self._hint = low
        return low

    def reached(self, passed_s: float) -> float:
        """The virtual time that service has come to so many seconds after the snapshot."""
        work = self._rate * passed_s + self._free
        if self._steady:
            return self._at(0).reached(work)
        at = min(bisect_right(HORIZONS_S, passed_s), len(HORIZONS_S) - 1)
        low_s, high_s = HORIZONS_S[at - 1], HORIZONS_S[at]
        low, high = self._at(at - 1).reached(work), self._at(at).reached(work)
        return low + (high - low) * min(1.0, (passed_s - low_s) / (high_s - low_s))

    def _needed(self, at: int, virtual: float, own: LineLoad | None) -> float:
        work = self._at(at).upto(virtual)
        if own is not None:
            upto = own.weight * virtual
            expected = own.work + own.arrivals * HORIZONS_S[at]
            work += max(0.0, min(own.work + own.entered, upto) - min(expected, upto))
        return max(0.0, work - self._free) / self._rate

    def _at(self, at: int) -> _Sums:
        self.needed.add(at)
        sums = self._sums.get(at)
        if sums is None:
            sums = self._sums[at] = _Sums(self._lines, HORIZONS_S[at])
        return sums


class LaneForecast:
    """One lane from one snapshot to the next; keys name lines. Times are seconds after the snapshot.

    Runs entered here since then stand behind those of the snapshot in their line.
    """

    def __init__(self, lines: Mapping[Hashable, LineLoad], rate: float, free: float = 0.0) -> None:
        self._fluid = LaneFluid(list(lines.values()), rate, free)
        self._ends = {key: line.work / line.weight for key, line in lines.items()}
        self._own = dict(lines)

    def prepare(self, before: "LaneForecast | None") -> Iterator[None]:
        """Do beforehand, bit by bit, what the first questions would have to: those asked of the one before."""
        return self._fluid.prepare(None if before is None else before._fluid.needed)

    def start(self, key: Hashable, now: float) -> float:
        """When a run that enters its line at `now` starts."""
        return max(now, self._fluid.after(self._virtual(key, now), self._own.get(key)))

    def enter(self, key: Hashable, weight: float, now: float, run: float = 1.0) -> None:
        """A run entered its line; `weight` and `run` (its cost) are those of a line that was not there."""
        line = self._own.get(key) or LineLoad(0.0, weight, run=run)
        self._ends[key] = self._virtual(key, now) + line.run / line.weight
        self._own[key] = replace(line, entered=line.entered + line.run)

    def leave(self, key: Hashable) -> None:
        """A run that was said to have entered its line did not."""
        line = self._own.get(key)
        if line is None or line.entered < line.run:
            return
        self._ends[key] -= line.run / line.weight
        self._own[key] = replace(line, entered=line.entered - line.run)

    def drained(self) -> float:
        """When the last of what stands here now starts."""
        last = max(self._ends, key=lambda key: self._ends[key], default=None)
        return 0.0 if last is None else self._fluid.after(self._ends[last], self._own.get(last))

    def _virtual(self, key: Hashable, now: float) -> float:
        return max(self._ends.get(key, 0.0), self._fluid.reached(now))


def cost_rate(lines: Iterable[LineLoad], runs_per_s: float) -> float:
    """The cost served a second, of so many runs a second: backlogged lines get runs by weight over the cost of one."""
    weights = runs = 0.0
    for line in lines:
        if line.work > 0:
            weights += line.weight
            runs += line.weight / line.run
    return runs_per_s * weights / runs if runs else runs_per_s


def head_start(start: float, now: float, priority_s: float) -> float:
    """When a run starts that has a head start in its line, if without it it would at `start`.

    In a line that keeps its length a wait is the age of who is served, so a head start of so many seconds passes those
    who came within them; one behind its time lets those pass who come. Without a wait there is nobody to pass.
    """
    wait_s = start - now
    if wait_s <= 0.0:
        return start
    return now + max(0.0, wait_s - priority_s)
