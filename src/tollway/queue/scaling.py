"""How many workers each lane wants: by what is runnable and running, its service time, and its target wait. Pure.

    slots needed   = those in use + for what is runnable, a slot each, or a share of one that is free again in time
    workers wanted = slots needed / slots of a worker that the lane may use
                     and, while workers are out of CPU, runs a second to serve / runs a second of a worker

What is blocked does not count: no worker could take it. More backlog never wants fewer workers.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tollway.queue.service import Rates, ServiceRates

SECONDS_UNKNOWN = 1.0
LAG_SATURATED_S = 0.05
CPU_SATURATED = 0.85
WORKERS_MAX = 1_000_000
_ROUNDING = 1e-9


class Counted(Protocol):
    """Live runs of a class, as the record counts them."""

    @property
    def runnable(self) -> int:
        """Runs a worker with a free slot would take."""

    @property
    def running(self) -> int:
        """Runs in slots."""

    @property
    def reasons(self) -> Mapping[str, int]:
        """The blocked, by what holds them."""


@dataclass(frozen=True, slots=True)
class LaneAim:
    """A lane's guaranteed share of slots, and the seconds its work should wait at most."""

    share: float = 0.0
    target_wait_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """Work of a class: runs runnable and running, claims a second, seconds in a slot (None: not known yet)."""

    runnable: int
    running: int
    claims_per_s: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Crew:
    """Workers of a lane: how many, the slots of one that the lane may use, and what one serves when out of CPU."""

    workers: int
    slots: float
    runs_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class LaneSignal:
    """What `GET /v1/scaling` says of a lane; `workers` is how many serve it now."""

    lane: str
    runnable: int
    blocked: int
    running: int
    wanted_workers: int
    workers: int
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Signal:
    """All lanes, and the workers wanted when all of them serve every lane."""

    lanes: Mapping[str, LaneSignal]
    wanted_workers: int
    workers: int


def slots_needed(loads: Iterable[Load], target_wait_s: float) -> float:
    """Slots that keep up with what comes and begin with what is runnable within the target."""
    return sum((_slots_for(load, target_wait_s) for load in loads), 0.0)


def runs_to_serve(loads: Iterable[Load], target_wait_s: float) -> float:
    """Runs a second that keep up with what comes and work off what is runnable within the target."""
    return sum((load.claims_per_s + load.runnable / target_wait_s for load in loads), 0.0)


def workers_wanted(loads: Iterable[Load], target_wait_s: float, crew: Crew) -> float:
    """Workers a lane wants, with fractions."""
    loads = list(loads)
    wanted = slots_needed(loads, target_wait_s) / max(1.0, crew.slots)
    if crew.runs_per_s:
        wanted = max(wanted, runs_to_serve(loads, target_wait_s) / crew.runs_per_s)
    return min(wanted, float(WORKERS_MAX))


def usable_slots(lane: str, aims: Mapping[str, LaneAim], slots: float, running: Mapping[str, float]) -> float:
    """Slots of a worker that a lane may use while the others keep back what they lately need of their shares.

    `running` is by lane, of a mean worker. A lane always has its own share, and one slot.
    """
    kept = 0.0
    for other, aim in aims.items():
        if other != lane:
            share = aim.share * slots
            kept += min(max(2 * running.get(other, 0.0), share / 4), share)
    own = aims[lane].share * slots if lane in aims else 0.0
    return max(1.0, own, slots - kept)


@dataclass(slots=True)
class Scaling:
    """The signal over all that workers tell; `slots` is what a worker has while none is heard."""

    aims: Mapping[str, LaneAim]
    slots: int
    rates: Rates = field(default_factory=lambda: Rates(0.0, {}, {}))
    _service: ServiceRates = field(default_factory=ServiceRates)
    _workers: list["_Told"] = field(default_factory=list)

    def hear(self, now: float, workers: Mapping[int, Mapping[str, Any]]) -> None:
        """Take what every live worker told in its last beat, by its process id."""
        self.rates = self._service.take(now, {process_id: facts.get("served") for process_id, facts in workers.items()})
        self._workers = [told for told in map(_read, workers.values()) if told is not None]

    def signal(self, counts: Mapping[tuple[str, str], Counted], *, own: bool = False) -> Signal:
        """The signal for these classes (lane and agent). `own`: of one tenant's work by itself, at no others' rates."""
        loads: dict[str, list[Load]] = {lane: [] for lane in self.aims}
        reasons: dict[str, dict[str, int]] = {lane: {} for lane in self.aims}
        for (lane, agent), count in counts.items():
            if lane not in loads:
                continue
            why = self._closed(agent)
            runnable = 0 if why else count.runnable
            loads[lane].append(self._load(lane, agent, runnable, count.running, own=own))
            for reason, runs in (*count.reasons.items(), (why, count.runnable)):
                if reason and runs:
                    reasons[lane][reason] = reasons[lane].get(reason, 0) + runs
        return self._signal(loads, reasons, None if own else self._runs_per_s())

    def _signal(
        self, loads: Mapping[str, list[Load]], reasons: Mapping[str, dict[str, int]], runs_per_s: float | None
    ) -> Signal:
        lanes, slots, runs, most = {}, 0.0, 0.0, 0.0
        for lane, aim in self.aims.items():
            crew = self._crew(lane, loads, runs_per_s)
            wanted = workers_wanted(loads[lane], aim.target_wait_s, crew)
            most = max(most, wanted)
            slots += slots_needed(loads[lane], aim.target_wait_s)
            runs += runs_to_serve(loads[lane], aim.target_wait_s)
            lanes[lane] = LaneSignal(
                lane,
                sum(load.runnable for load in loads[lane]),
                sum(reasons[lane].values()),
                sum(load.running for load in loads[lane]),
                _whole(wanted),
                crew.workers,
                reasons[lane],
            )
        together = max(most, slots / self._mean_slots(self._workers), runs / runs_per_s if runs_per_s else 0.0)
        return Signal(lanes, _whole(together), len(self._workers))

    def _load(self, lane: str, agent: str, runnable: int, running: int, *, own: bool) -> Load:
        of, whole = self.rates.of(lane, agent), self.rates.lane(lane)
        seconds = of.seconds if of.seconds is not None else whole.seconds
        return Load(runnable, running, 0.0 if own else of.claims_per_s, seconds)

    def _crew(self, lane: str, loads: Mapping[str, list[Load]], runs_per_s: float | None) -> Crew:
        serving = [told for told in self._workers if told.lanes is None or lane in told.lanes]
        shared = {other: aim for other, aim in self.aims.items() if _serves(serving, other)}
        of_one = max(1, len(serving))
        running = {other: sum(load.running for load in loads[other]) / of_one for other in shared}
        return Crew(len(serving), usable_slots(lane, shared, self._mean_slots(serving), running), runs_per_s)

    def _mean_slots(self, workers: list["_Told"]) -> float:
        return sum(told.slots for told in workers) / len(workers) if workers else float(self.slots)

    def _runs_per_s(self) -> float | None:
        """What one worker serves, when that is their bound: all of them are out of CPU or late. Else None."""
        if not self._workers or not all(told.saturated for told in self._workers):
            return None
        served = sum(service.ends_per_s for service in self.rates.lanes.values())
        return served / len(self._workers) or None

    def _closed(self, agent: str) -> str | None:
        """Why no worker takes runs of an agent just now; None when one does, or none serves it at all."""
        serving = [told for told in self._workers if agent in told.agents]
        if not serving or not all(agent in told.doors for told in serving):
            return None
        return serving[0].doors[agent]


@dataclass(frozen=True, slots=True)
class _Told:
    """What one worker's beat says of it; `lanes` None: all."""

    slots: int
    agents: frozenset[str]
    lanes: frozenset[str] | None
    doors: Mapping[str, str]
    saturated: bool


def _read(facts: Mapping[str, Any]) -> _Told | None:
    """A worker's facts, whatever version it is of; None unless it is claiming."""
    slots = facts.get("slots")
    if facts.get("claiming") is not True or not isinstance(slots, int) or slots < 1:
        return None
    lanes, doors = facts.get("lanes"), facts.get("doors")
    closed = {
        agent: why[0]
        for agent, why in (doors.items() if isinstance(doors, dict) else ())
        if isinstance(why, list | tuple) and why and isinstance(why[0], str)
    }
    late = _number(facts.get("lag_s")) >= LAG_SATURATED_S or _number(facts.get("cpu")) >= CPU_SATURATED
    return _Told(
        slots, _words(facts.get("agents")), _words(lanes) if isinstance(lanes, list | tuple) else None, closed, late
    )


def _words(value: Any) -> frozenset[str]:
    return (
        frozenset(word for word in value if isinstance(word, str)) if isinstance(value, list | tuple) else frozenset()
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _serves(workers: list[_Told], lane: str) -> bool:
    """Whether one of these workers serves the lane as well; while none is heard, each is taken to serve all."""
    return not workers or any(told.lanes is None or lane in told.lanes for told in workers)


def _slots_for(load: Load, target_wait_s: float) -> float:
    seconds = SECONDS_UNKNOWN if load.seconds is None else load.seconds
    kept_up = max(load.running, load.claims_per_s * seconds)
    return kept_up + load.runnable * min(1.0, seconds / target_wait_s)


def _whole(workers: float) -> int:
    return max(0, math.ceil(workers - _ROUNDING))
