"""What workers tell in their beats, for forecasts: rates of service, slots by lane, how long runs waited lately."""

from collections.abc import Callable
from typing import Any

from tollway.queue.service import WINDOW_S, Rates
from tollway.record.processes import LiveProcess
from tollway.record.settings_sync import SettingsSync


class ServiceWatch:
    """Reads every beat once. `rates` gives the rates that were last worked out."""

    def __init__(self, sync: SettingsSync, rates: Callable[[], Rates]) -> None:
        self._sync = sync
        self._rates = rates
        self._seen: list[LiveProcess] | None = None
        self._waits: dict[str, float] = {}
        self._slots: dict[str, int] = {}
        self.window_s = WINDOW_S

    @property
    def rates(self) -> Rates:
        """Service by lane and agent, over the last seconds."""
        return self._rates()

    def slots(self, lane: str) -> int:
        """Slots of the workers that claim from the lane now."""
        self._look()
        return self._slots.get(lane, 0)

    def recent_wait_s(self, lane: str) -> float:
        """How long runs of a lane waited lately, the mean over workers; 0 while no worker has said anything."""
        self._look()
        return self._waits.get(lane, 0.0)

    def share_of_accepts(self, lane: str, own_per_s: float) -> float:
        """This process' share of what all API processes take into a lane."""
        others = 0.0
        for process in self._sync.processes:
            if process.role == "api" and process.id != self._sync.process_id:
                told = process.facts.get("accepts")
                others += _amount(told.get(lane)) if isinstance(told, dict) else 0.0
        return own_per_s / (own_per_s + others) if own_per_s > 0 else 1.0

    def _look(self) -> None:
        workers = self._sync.workers
        if workers is self._seen:
            return
        self._seen, self._slots = workers, {}
        waits: dict[str, list[float]] = {}
        for worker in workers:
            facts = worker.facts
            lanes, slots, waited = facts.get("lanes"), facts.get("slots"), facts.get("waits")
            if facts.get("claiming") is True and not worker.stopping and isinstance(lanes, list):
                for lane in lanes:
                    self._slots[lane] = self._slots.get(lane, 0) + int(_amount(slots))
            for lane, wait_s in waited.items() if isinstance(waited, dict) else ():
                waits.setdefault(lane, []).append(_amount(wait_s))
        self._waits = {lane: sum(said) / len(said) for lane, said in waits.items()}


def _amount(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0
