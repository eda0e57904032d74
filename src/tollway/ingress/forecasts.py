"""When a run that is submitted now will start: the forecast of its lane, made from the last count of the queue, the
weights of tenants and the service that workers tell of. Asked at every submit, so it answers from memory.

What is not known (no worker has told of the lane, nobody has counted lately) is said to be unsure; nobody is refused
for an unsure start.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from tollway.domain.clock import Clock
from tollway.ingress.lane_forecasts import SLICE, KnownLane, LaneMaker, Now
from tollway.ingress.scaling import LoadBoard
from tollway.ingress.service_watch import ServiceWatch
from tollway.ingress.standing import KnownStanding
from tollway.queue.forecast import head_start
from tollway.record.backlog import Backlog, Line
from tollway.record.settings_sync import SettingsSync

AT_ONCE_LINES = 500
"""Lines that a submit may take over itself: that is about two milliseconds' work."""

LINES_PER_S = 2_000
ARRIVALS_OVER_S = 10.0
_RECENT_MAX_S = 5.0
_RARE_PER_S = 1e-3
_UNDER_WAY_S = 0.01


@dataclass(frozen=True, slots=True)
class Entry:
    """A run as far as its start depends on it; `now` is when it was submitted, epoch seconds.

    `key_id` and `task_type` say with others which budgets cover it.
    """

    tenant: str
    agent: str
    lane: str
    now: float
    delay_s: float = 0.0
    priority_s: float = 0.0
    key_id: str = ""
    task_type: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """When a run should start, epoch seconds, and whether that is sure enough to refuse it."""

    at: float
    sure: bool


class _New:
    """How many runs entered since the count, by lane and by tenant."""

    __slots__ = ("lanes", "tenants")

    def __init__(self) -> None:
        self.lanes: Counter[str] = Counter()
        self.tenants: Counter[str] = Counter()

    def add(self, line: Line, runs: int) -> None:
        self.lanes[line[0]] += runs
        self.tenants[line[2]] += runs


class Forecasts:
    """The forecasts of every lane, in one API process."""

    def __init__(self, board: LoadBoard, standing: KnownStanding, sync: SettingsSync, clock: Clock) -> None:
        self._watch = board.backlog
        self._standing = standing
        self._sync = sync
        self._clock = clock
        self.service = ServiceWatch(sync, lambda: board.rates)
        self._backlog: Backlog | None = None
        self._maker = LaneMaker(self.service, self._weight, standing.class_blocked)
        self._lanes: dict[str, KnownLane] = {}
        self._taking: asyncio.Task[None] | None = None
        self._entered: dict[UUID, tuple[float, Line]] = {}
        self._new = _New()
        self._asked: dict[Line, int] = {}
        self._arrivals: dict[Line, float] = {}
        self._asked_at = clock.monotonic()

    def start(self, entry: Entry) -> Start:
        """When a run would start if it were taken."""
        self._look()
        wait_s = self._wait_s(entry)
        due_at = entry.now + entry.delay_s
        if wait_s:
            at = max(due_at, head_start(entry.now + wait_s, entry.now, entry.priority_s))
        else:  # there is no line to stand in, or nobody knows of one
            at = due_at + min(_RECENT_MAX_S, self.service.recent_wait_s(entry.lane))
        blocked = self._standing.class_blocked(entry.agent)
        if blocked is not None and blocked.until is not None and blocked.until > at:
            return Start(blocked.until, True)
        return Start(at, bool(wait_s))

    def entered(self, run_id: UUID, line: Line) -> None:
        """A runnable run was taken: it stands before the next one of its line."""
        now = self._clock.monotonic()
        self._asked[line] = self._asked.get(line, 0) + 1
        self._entered[run_id] = (now, line)
        self._new.add(line, 1)
        self._enter(line, now)

    def left(self, run_id: UUID) -> None:
        """A run that was said to have entered did not, or ended at once."""
        known = self._entered.pop(run_id, None)
        if known is None:
            return
        line = known[1]
        self._new.add(line, -1)
        if self._asked.get(line):
            self._asked[line] -= 1
        lane = self._lanes.get(line[0])
        forecast = None if lane is None else lane.of(line[1])
        if forecast is not None:
            forecast.leave(line)

    def _enter(self, key: Line, now: float) -> None:
        lane = self._lanes.get(key[0])
        forecast = None if lane is None else lane.of(key[1])
        if lane is not None and forecast is not None:
            forecast.enter(key, self._weight(key[2]), max(0.0, now - lane.at))

    def queued(self, lane: str) -> int | None:
        """Runs queued in a lane, about: counted, and what entered and left since then; None while nobody knows."""
        self._look()
        if self._backlog is None:
            return None
        since_s = max(0.0, self._clock.monotonic() - self._backlog.at)
        entered = self._new.lanes[lane]
        left = self.service.rates.lane(lane).claims_per_s * since_s
        return max(0, int(self._backlog.of(lane).queued + entered - left))

    def drained_in_s(self, lane: str) -> float:
        """Seconds until all that stands in a lane now has started, 0.0 if that is not known: for the metrics."""
        known = self._lanes.get(lane)
        if known is None or known.whole is None:
            return 0.0
        last = max(forecast.drained() for forecast in (known.whole, *known.held.values()))
        return max(0.0, last - (self._clock.monotonic() - known.at))

    def _wait_s(self, entry: Entry) -> float | None:
        lane = self._lanes.get(entry.lane)
        forecast = None if lane is None else lane.of(entry.agent)
        if lane is None or forecast is None:
            return None
        passed_s = self._clock.monotonic() - lane.at
        key = (entry.lane, entry.agent, entry.tenant)
        wait_s = forecast.start(key, passed_s) - passed_s
        return max(wait_s, self._capped_wait_s(entry))

    def _capped_wait_s(self, entry: Entry) -> float:
        """How long a tenant's own `max_running` makes its next run wait."""
        record, backlog = self._sync.snapshot.tenants.get(entry.tenant), self._backlog
        if record is None or record.max_running is None or backlog is None:
            return 0.0
        count = backlog.of(tenant=entry.tenant)
        seconds = self.service.rates.of(entry.lane, entry.agent).seconds
        if seconds is None:
            return 0.0
        passed_s = self._clock.monotonic() - backlog.at
        ahead = count.runnable + count.shut + count.running + 1 - record.max_running
        ahead += self._new.tenants[entry.tenant]
        return max(0.0, ahead * seconds / record.max_running - passed_s)

    def stop(self) -> None:
        """Leave a forecast that is being made; a second stop is nothing."""
        taking, self._taking = self._taking, None
        if taking is not None:
            taking.cancel()

    def _look(self) -> None:
        """Take a new count over: a small one now, a large one in slices, so that no submit waits for it."""
        backlog = self._watch.latest
        if self._taking is not None or backlog is self._backlog:
            return
        if backlog is None:
            self._backlog, self._lanes = None, {}
            self._maker.forget()
            return
        work = self._take(backlog)
        if len(backlog.lines) <= AT_ONCE_LINES:
            for _ in work:
                pass
        else:
            self._taking = asyncio.get_running_loop().create_task(self._in_slices(work), name="forecasts")

    async def _in_slices(self, work: Iterator[None]) -> None:
        try:
            for _ in work:
                await asyncio.sleep(0)
        finally:
            self._taking = None

    def _take(self, backlog: Backlog) -> Iterator[None]:
        self._note_arrivals()
        self._maker.note_lasting(backlog)
        by_lane: dict[str, list[Line]] = {}
        for at, (line, count) in enumerate(backlog.lines.items(), 1):
            if at % SLICE == 0:
                yield
            if count.runnable:
                by_lane.setdefault(line[0], []).append(line)
        for line in self._arrivals:
            if line not in backlog.lines or not backlog.lines[line].runnable:
                by_lane.setdefault(line[0], []).append(line)
        made = {}
        for lane in by_lane.keys() | self._lanes.keys() | backlog.lanes.keys():
            known = self._lanes.get(lane)
            if known is None or backlog.at - known.at >= known.lines / LINES_PER_S:
                made[lane] = yield from self._maker.make(
                    lane, by_lane.get(lane, []), Now(backlog, self._arrivals, known)
                )
        missed_from = backlog.at - _UNDER_WAY_S  # what was not committed when the count began is not in it
        self._backlog = backlog
        self._lanes |= made
        self._entered = {run: one for run, one in self._entered.items() if one[0] >= missed_from}
        self._new = _New()
        for at_s, line in self._entered.values():
            self._new.add(line, 1)
            if line[0] in made:
                self._enter(line, at_s)

    def _note_arrivals(self) -> None:
        """What entered each line a second, over all API processes: here it is known by line, elsewhere by lane."""
        now = self._clock.monotonic()
        passed_s, self._asked_at = max(1e-3, now - self._asked_at), now
        asked, self._asked = self._asked, {}
        weight = min(1.0, passed_s / ARRIVALS_OVER_S)
        arrivals = {line: per_s * (1.0 - weight) for line, per_s in self._arrivals.items()}
        for line, runs in asked.items():
            arrivals[line] = arrivals.get(line, 0.0) + weight * runs / passed_s
        self._arrivals = {line: per_s for line, per_s in arrivals.items() if per_s > _RARE_PER_S}

    def facts(self) -> dict[str, float]:
        """Runs a second that were taken here, by lane, for the beat."""
        told: dict[str, float] = {}
        for (lane, _, _), per_s in self._arrivals.items():
            told[lane] = told.get(lane, 0.0) + per_s
        return {lane: round(per_s, 3) for lane, per_s in told.items()}

    def _weight(self, tenant: str) -> float:
        record = self._sync.snapshot.tenants.get(tenant)
        return 1.0 if record is None else record.weight
