"""When a run that is submitted now will start: the forecast of its lane, made from the last count of the queue, the
weights of tenants and the service that workers tell of. Asked at every submit, so it answers from memory.

What is not known (no worker has told of the lane, nobody has counted lately) is said to be unsure; nobody is refused
for an unsure start.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass

from tollway.domain.clock import Clock
from tollway.ingress.scaling import LoadBoard
from tollway.ingress.service_watch import ServiceWatch
from tollway.ingress.standing import KnownStanding
from tollway.queue.forecast import LaneForecast, LineLoad, cost_rate, head_start
from tollway.record.backlog import Backlog, Line
from tollway.record.settings_sync import SettingsSync

LASTING_S = 3.0
LINES_PER_S = 2_000
ARRIVALS_OVER_S = 10.0
_HELD_SHARE = 0.5
_RECENT_MAX_S = 5.0
_RARE_PER_S = 1e-3
_UNDER_WAY_S = 0.01


@dataclass(frozen=True, slots=True)
class Entry:
    """A run as far as its start depends on it; `now` is when it was submitted, epoch seconds."""

    tenant: str
    agent: str
    lane: str
    now: float
    delay_s: float = 0.0
    priority_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Start:
    """When a run should start, epoch seconds, and whether that is sure enough to refuse it."""

    at: float
    sure: bool


@dataclass(frozen=True, slots=True)
class _Lane:
    """The forecasts of a lane: of its open classes together, and of each class that is held back by what it needs."""

    at: float
    lines: int
    whole: LaneForecast | None
    held: dict[str, LaneForecast]

    def of(self, agent: str) -> LaneForecast | None:
        return self.held.get(agent, self.whole)


class Forecasts:
    """The forecasts of every lane, in one API process."""

    def __init__(self, board: LoadBoard, standing: KnownStanding, sync: SettingsSync, clock: Clock) -> None:
        self._watch = board.backlog
        self._standing = standing
        self._sync = sync
        self._clock = clock
        self.service = ServiceWatch(sync, lambda: board.rates)
        self._backlog: Backlog | None = None
        self._lanes: dict[str, _Lane] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._entered: list[tuple[float, Line]] = []
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

    def entered(self, entry: Entry) -> None:
        """The run was taken: it stands before the next one of its line."""
        if entry.delay_s > 0:
            return
        key = (entry.lane, entry.agent, entry.tenant)
        now = self._clock.monotonic()
        self._asked[key] = self._asked.get(key, 0) + 1
        self._entered.append((now, key))
        self._enter(key, now)

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
        entered = sum(key[0] == lane for _, key in self._entered)
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
        count = backlog.tenants.get(entry.tenant)
        seconds = self.service.rates.of(entry.lane, entry.agent).seconds
        if count is None or seconds is None:
            return 0.0
        passed_s = self._clock.monotonic() - backlog.at
        ahead = count.runnable + count.shut + count.running + 1 - record.max_running
        ahead += sum(key[2] == entry.tenant for _, key in self._entered)
        return max(0.0, ahead * seconds / record.max_running - passed_s)

    def _look(self) -> None:
        backlog = self._watch.latest
        if backlog is self._backlog:
            return
        self._backlog = backlog
        if backlog is None:
            self._lanes, self._since = {}, {}
            return
        self._note_arrivals()
        self._note_lasting(backlog)
        missed_from = backlog.at - _UNDER_WAY_S  # what was not committed when the count began is not in it
        self._entered = [one for one in self._entered if one[0] >= missed_from]
        by_lane: dict[str, list[Line]] = {}
        for line, count in backlog.lines.items():
            if count.runnable:
                by_lane.setdefault(line[0], []).append(line)
        for line in self._arrivals:
            if line not in backlog.lines or not backlog.lines[line].runnable:
                by_lane.setdefault(line[0], []).append(line)
        for lane in by_lane.keys() | self._lanes.keys() | backlog.lanes.keys():
            known = self._lanes.get(lane)
            if known is None or backlog.at - known.at >= known.lines / LINES_PER_S:
                self._lanes[lane] = self._make(lane, by_lane.get(lane, []), backlog)
                for at, line in self._entered:
                    if line[0] == lane:
                        self._enter(line, at)

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

    def _note_lasting(self, backlog: Backlog) -> None:
        """Since when each class has had a backlog without a break."""
        present = {line[:2] for line, count in backlog.lines.items() if count.runnable}
        self._since = {key: self._since.get(key, backlog.at) for key in present}

    def _make(self, lane: str, lines: list[Line], backlog: Backlog) -> _Lane:
        rates = self.service.rates
        held = self._held(lane, backlog)
        told = [backlog.costs[line] for line in lines if line in backlog.costs]
        usual = sum(told) / len(told) if told else 1.0
        share = self.service.share_of_accepts(lane, self._told(lane))
        loads: dict[str, dict[Hashable, LineLoad]] = {}
        siblings: dict[str, int] = {}
        for _, agent, tenant in lines:
            if agent not in held:
                siblings[tenant] = siblings.get(tenant, 0) + 1
        for line in lines:
            _, agent, tenant = line
            count = backlog.lines.get(line)
            weight = self._weight(tenant) / (1 if agent in held else siblings[tenant])
            arrivals = self._arrivals.get(line, 0.0) / share
            cost = backlog.costs.get(line, usual) / usual
            load = LineLoad((count.runnable if count else 0) * cost, weight, arrivals * cost, cost)
            loads.setdefault(agent if agent in held else "", {})[line] = load
        forecasts: dict[str, LaneForecast] = {}
        for agent in held:
            own, claims = loads.get(agent, {}), rates.of(lane, agent).claims_per_s
            if claims > 0:
                forecasts[agent] = LaneForecast(own, cost_rate(own.values(), claims))
        open_loads = loads.get("", {})
        away = sum(rates.of(lane, agent).claims_per_s for agent in held)
        rate, free = self._rate(lane, away, backlog, held)
        whole = None if rate is None else LaneForecast(open_loads, cost_rate(open_loads.values(), rate), free)
        return _Lane(backlog.at, len(lines), whole, forecasts)

    def _rate(
        self, lane: str, away_per_s: float, backlog: Backlog, held: Collection[str]
    ) -> tuple[float | None, float]:
        """Runs a second that start in a lane while it has a backlog, and how many start at once.

        What is held back is no backlog: it says nothing of how fast the others could be served.

        While a backlog lasts, claims are the truth. Before it, claims are only as many as runs came: then what the
        slots of workers can turn over is the better guess, and never the lower one.
        """
        service, slots = self.service.rates.lane(lane), self.service.slots(lane)
        if not slots:
            return None, 0.0
        lasting = (at for (of, agent), at in self._since.items() if of == lane and agent not in held)
        since = min(lasting, default=backlog.at)
        lasting_s = backlog.at - since
        count = backlog.of(lane)
        free = 0.0 if lasting_s >= LASTING_S else float(max(0, slots - backlog.of().running))
        claims = min(service.claims_per_s, service.ends_per_s) - away_per_s  # what fills slots is not kept up
        if lasting_s >= self.service.window_s and claims > 0:
            return claims, free
        if service.seconds is None:
            return (claims, free) if claims > 0 and lasting_s >= LASTING_S else (None, free)
        turned_over = (count.running + free) / max(service.seconds, 1e-3)
        rate = max(claims, turned_over)
        return (rate if rate > 0 else None), free

    def _held(self, lane: str, backlog: Backlog) -> set[str]:
        """Classes that no worker starts just now, by what workers tell, or that are served far below their part of the
        lane although they wait: what they need holds them."""
        long_ago = backlog.at - self.service.window_s
        shut = {agent for of, agent in self._since if of == lane and self._standing.class_blocked(agent) is not None}
        waiting = {
            agent for (of, agent), at in self._since.items() if of == lane and at <= long_ago and agent not in shut
        }
        if len(waiting) < 2:
            return shut
        rates = self.service.rates
        weights = dict.fromkeys(waiting, 0.0)
        for (of, agent, tenant), count in backlog.lines.items():
            if of == lane and agent in weights and count.runnable:
                weights[agent] += self._weight(tenant)
        served = sum(rates.of(lane, agent).claims_per_s for agent in waiting)
        whole = sum(weights.values()) or 1.0
        return shut | {
            agent
            for agent in waiting
            if rates.of(lane, agent).claims_per_s < _HELD_SHARE * served * weights[agent] / whole
        }

    def _told(self, lane: str) -> float:
        return sum(per_s for line, per_s in self._arrivals.items() if line[0] == lane)

    def facts(self) -> dict[str, float]:
        """Runs a second that were taken here, by lane, for the beat."""
        told: dict[str, float] = {}
        for (lane, _, _), per_s in self._arrivals.items():
            told[lane] = told.get(lane, 0.0) + per_s
        return {lane: round(per_s, 3) for lane, per_s in told.items()}

    def _weight(self, tenant: str) -> float:
        record = self._sync.snapshot.tenants.get(tenant)
        return 1.0 if record is None else record.weight
