"""What processes tell in their beats, for forecasts: rates of service, slots, recent waits, closed doors."""

from typing import Any

from tollway.domain.clock import Clock
from tollway.queue.service import WINDOW_S, Rates, ServiceRates
from tollway.record.processes import LiveProcess
from tollway.record.settings_sync import SettingsSync


class ServiceWatch:
    """Reads every beat once; `look` before asking. `slots` are those of the workers that claim now."""

    def __init__(self, sync: SettingsSync, clock: Clock) -> None:
        self._sync = sync
        self._clock = clock
        self._seen: list[LiveProcess] | None = None
        self._service = ServiceRates()
        self._waits: dict[str, float] = {}
        self.slots = 0
        self.window_s = WINDOW_S
        self.rates = Rates(0.0, {}, {})

    def look(self) -> None:
        """Take in what was told since the last look."""
        workers = self._sync.workers
        if workers is self._seen:
            return
        self._seen = workers
        told = {worker.id: worker.facts.get("served") for worker in workers if not worker.stopping}
        self.rates = self._service.take(self._clock.monotonic(), told)
        self.slots = sum(
            _number(worker.facts.get("slots"))
            for worker in workers
            if not worker.stopping and worker.facts.get("claiming") is True
        )
        waits: dict[str, list[float]] = {}
        for worker in workers:
            said = worker.facts.get("waits")
            for lane, wait_s in said.items() if isinstance(said, dict) else ():
                waits.setdefault(lane, []).append(float(wait_s))
        self._waits = {lane: sum(said) / len(said) for lane, said in waits.items()}

    def recent_wait_s(self, lane: str) -> float:
        """How long runs of a lane waited lately, the mean over workers; 0 while no worker has said anything."""
        return self._waits.get(lane, 0.0)

    def closed_until(self, agent: str) -> float | None:
        """Until when (epoch seconds) every worker that serves the agent holds its class back; None: not all of them."""
        until: list[float] = []
        for worker in self._seen or ():
            agents, doors = worker.facts.get("agents"), worker.facts.get("doors")
            if not isinstance(agents, list) or agent not in agents:
                continue
            closed = doors.get(agent) if isinstance(doors, dict) else None
            if not closed:
                return None
            until.append(_moment(closed))
        return min(until, default=None) if until else None

    def share_of_accepts(self, lane: str, own_per_s: float) -> float:
        """This process' share of what all API processes take into a lane."""
        others = 0.0
        for process in self._sync.processes:
            if process.role == "api" and process.id != self._sync.process_id:
                told = process.facts.get("accepts")
                others += _amount(told.get(lane)) if isinstance(told, dict) else 0.0
        return own_per_s / (own_per_s + others) if own_per_s > 0 else 1.0


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _amount(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0


def _moment(closed: Any) -> float:
    try:
        return float(closed[2])
    except (IndexError, KeyError, TypeError, ValueError):
        return 0.0
