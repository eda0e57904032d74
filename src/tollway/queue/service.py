"""How fast work is served: rates and mean times by lane and agent, from what workers tell in their beats. Pure.

A worker counts up from its start and tells the counts with each beat, late or not at all as may be; the rates are their
differences over a window. Workers come and go, and the counts of an unknown version may be anything.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

WINDOW_S = 15.0
PATIENCE_S = 5.0
SPAN_MIN_S = 2.0
FORGET_AFTER_S = 600.0
AGENTS_MAX = 200
OTHERS = "*"
_WIDTH = 5
_AMOUNT_MAX = 2.0**53

Key = tuple[str, str]
"""Lane and agent; `OTHERS` stands for the agents beyond AGENTS_MAX."""


@dataclass(slots=True)
class _Tally:
    """What one worker did for one key since it began, and holds of it now."""

    claimed: int = 0
    ended: int = 0
    busy_s: float = 0.0
    running: int = 0
    elapsed_s: float = 0.0


class Served:
    """A worker's counts: runs claimed, runs that left their slot, and the seconds these were in it."""

    def __init__(self) -> None:
        self._tallies: dict[Key, _Tally] = {}

    def claimed(self, lane: str, agent: str) -> None:
        """A run was claimed."""
        self._of(lane, agent).claimed += 1

    def ended(self, lane: str, agent: str, busy_s: float) -> None:
        """A run left its slot after so many seconds, however it ended."""
        tally = self._of(lane, agent)
        tally.ended += 1
        tally.busy_s += busy_s

    def told(self, running: Iterable[tuple[str, str, float]]) -> dict[str, dict[str, list[float]]]:
        """The counts, as JSON carries them: `{lane: {agent: [claimed, ended, busy_s, running, elapsed_s]}}`.

        `running` is lane, agent and the seconds since it began, of every run in a slot.
        """
        held: dict[Key, list[float]] = {}
        for lane, agent, elapsed_s in running:
            now = held.setdefault(self._key(lane, agent), [0, 0.0])
            now[0] += 1
            now[1] += elapsed_s
        told: dict[str, dict[str, list[float]]] = {}
        for key in self._tallies.keys() | held.keys():
            tally, (count, elapsed_s) = self._tallies.get(key) or _Tally(), held.get(key, (0, 0.0))
            row = [tally.claimed, tally.ended, round(tally.busy_s, 3), count, round(elapsed_s, 3)]
            told.setdefault(key[0], {})[key[1]] = row
        return told

    def _key(self, lane: str, agent: str) -> Key:
        known = (lane, agent) in self._tallies or len(self._tallies) < AGENTS_MAX
        return (lane, agent if known else OTHERS)

    def _of(self, lane: str, agent: str) -> _Tally:
        return self._tallies.setdefault(self._key(lane, agent), _Tally())


@dataclass(frozen=True, slots=True)
class Service:
    """How work of a lane or an agent is served now, over all workers.

    `seconds` is the mean time in a slot of those that left it lately. While none has: what was known of it before, or
    for how long those running have been at it if that is more; None while nothing is known.
    """

    claims_per_s: float = 0.0
    ends_per_s: float = 0.0
    seconds: float | None = None
    running: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """One look: service by lane, and by lane and agent. `at` is the moment it was taken at."""

    at: float
    lanes: Mapping[str, Service]
    classes: Mapping[Key, Service]

    def lane(self, lane: str) -> Service:
        """Service of a lane; all zero while nobody has told of it."""
        return self.lanes.get(lane, Service())

    def of(self, lane: str, agent: str) -> Service:
        """Service of an agent in a lane; of the lane's other agents together when it is not told apart."""
        return self.classes.get((lane, agent)) or self.classes.get((lane, OTHERS), Service())


@dataclass(slots=True)
class _Point:
    at: float
    tallies: dict[Key, _Tally]


@dataclass(slots=True)
class ServiceRates:
    """What the looks of the last seconds said of each worker."""

    window_s: float = WINDOW_S
    _points: dict[int, deque[_Point]] = field(default_factory=dict)
    _known: dict[Key, tuple[float, float]] = field(default_factory=dict)

    def take(self, now: float, served: Mapping[int, Any]) -> Rates:
        """Take one look: what every live worker told last, by its process id; `now` must not go back."""
        for process_id, told in served.items():
            self._note(process_id, now, _read(told))
        changes: dict[Key, _Change] = {}
        for process_id, points in list(self._points.items()):
            while len(points) > 1 and points[1].at <= now - self.window_s:
                points.popleft()
            if process_id not in served and points[-1].at <= now - self.window_s:
                del self._points[process_id]
                continue
            patience_s = PATIENCE_S if process_id in served else 0.0
            _add_changes(changes, points, self._span_s(points, now, patience_s), present=process_id in served)
        return self._rates(now, changes)

    def _note(self, process_id: int, now: float, tallies: dict[Key, _Tally]) -> None:
        points = self._points.setdefault(process_id, deque())
        last = points[-1].tallies if points else {}
        if any(_went_back(before, tallies.get(key)) for key, before in last.items()):
            points.clear()
        if not points or tallies != points[-1].tallies:
            points.append(_Point(now, tallies))

    def _span_s(self, points: deque[_Point], now: float, patience_s: float) -> float:
        """Over how long the counts of these points grew. A late beat is forgiven for a while, idle time is not counted
        beyond the window."""
        first, last = points[0], points[-1]
        began = first.at
        if len(points) > 1 and points[1].at - first.at > PATIENCE_S:
            began = max(began, min(now - self.window_s, points[1].at))
        return max(SPAN_MIN_S, last.at - began, now - began - patience_s)

    def _rates(self, now: float, changes: "dict[Key, _Change]") -> Rates:
        for key, change in changes.items():
            if change.ended > 0:
                self._known[key] = (change.busy_s / change.ended, now)
        self._known = {key: mean for key, mean in self._known.items() if now - mean[1] <= FORGET_AFTER_S}
        lanes: dict[str, _Change] = {}
        for (lane, _), change in changes.items():
            lanes.setdefault(lane, _Change()).plus(change)
        classes = {key: change.service(self._known.get(key)) for key, change in changes.items()}
        return Rates(now, {lane: change.service(self._lane_known(lane)) for lane, change in lanes.items()}, classes)

    def _lane_known(self, lane: str) -> tuple[float, float] | None:
        """The agent heard of last stands for a lane in which nothing ended lately."""
        known = [mean for (of, _), mean in self._known.items() if of == lane]
        return max(known, key=lambda mean: (mean[1], mean[0]), default=None)


@dataclass(slots=True)
class _Change:
    """Rates summed over workers, and what their means are made of."""

    claims_per_s: float = 0.0
    ends_per_s: float = 0.0
    ended: int = 0
    busy_s: float = 0.0
    running: int = 0
    elapsed_s: float = 0.0

    def plus(self, other: "_Change") -> None:
        self.claims_per_s += other.claims_per_s
        self.ends_per_s += other.ends_per_s
        self.ended += other.ended
        self.busy_s += other.busy_s
        self.running += other.running
        self.elapsed_s += other.elapsed_s

    def service(self, known: tuple[float, float] | None) -> Service:
        seconds = self.busy_s / self.ended if self.ended > 0 else (known[0] if known is not None else None)
        if self.ended <= 0 and self.running > 0:
            seconds = max(seconds or 0.0, self.elapsed_s / self.running)
        return Service(self.claims_per_s, self.ends_per_s, seconds, self.running)


def _add_changes(changes: dict[Key, _Change], points: deque[_Point], span_s: float, *, present: bool) -> None:
    """Add one worker's differences; one that is gone holds no runs any more."""
    first, last = points[0], points[-1]
    for key, end in last.tallies.items():
        begin = first.tallies.get(key) or _Tally()
        change = changes.setdefault(key, _Change())
        if present:
            change.running += end.running
            change.elapsed_s += end.elapsed_s
        if first is last:
            continue
        change.claims_per_s += (end.claimed - begin.claimed) / span_s
        change.ends_per_s += (end.ended - begin.ended) / span_s
        change.ended += end.ended - begin.ended
        change.busy_s += end.busy_s - begin.busy_s


def _went_back(before: _Tally, after: _Tally | None) -> bool:
    return after is None or after.claimed < before.claimed or after.ended < before.ended or after.busy_s < before.busy_s


def _read(told: Any) -> dict[Key, _Tally]:
    """What a beat said of its work; whatever is none of it is left out."""
    found: dict[Key, _Tally] = {}
    for lane, agents in told.items() if isinstance(told, dict) else ():
        for agent, row in agents.items() if isinstance(agents, dict) else ():
            if isinstance(row, list | tuple) and len(row) == _WIDTH and all(_is_amount(value) for value in row):
                claimed, ended, busy_s, running, elapsed_s = row
                found[lane, agent] = _Tally(int(claimed), int(ended), busy_s, int(running), elapsed_s)
    return found


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _AMOUNT_MAX
