"""What holds queued runs back, as far as an API process knows: paused tenants, budgets that are spent, and classes that
no worker starts now.

Workers tell in their beats which classes are shut in them, why and until when (`facts.doors`); a class is blocked when
it is so in every worker that serves it. What they tell is as old as their last beat.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

from tollway.domain.clock import Clock
from tollway.domain.gates import Blocked
from tollway.record.processes import LiveProcess
from tollway.record.settings_sync import SettingsSync


class KnownStanding:
    """Implements `record.run_document.Standing` from the settings, the workers' beats, and what `broke` tells: which
    budget keeps the runs of a tenant, lane and agent waiting."""

    def __init__(self, sync: SettingsSync, clock: Clock, broke: Callable[[str, str, str], Blocked | None]) -> None:
        self._sync = sync
        self.broke = broke
        self._clock = clock
        self._from: object = None
        self._shut: dict[str, Blocked] = {}

    def paused(self, tenant: str) -> bool:
        """Whether the tenant's runs are held back."""
        record = self._sync.snapshot.tenants.get(tenant)
        return record is not None and record.paused

    def class_blocked(self, agent: str) -> Blocked | None:
        """Why no run of an agent is started just now, and until when if that is known; None if any worker starts them.

        `until` is the earliest of the workers', never in the past.
        """
        workers = self._sync.workers
        if workers is not self._from:
            self._from = workers
            self._shut = shut_classes(workers)
        blocked = self._shut.get(agent)
        if blocked is not None and blocked.until is not None and blocked.until <= self._clock.now():
            return blocked._replace(until=None)
        return blocked


def shut_classes(workers: Iterable[LiveProcess]) -> dict[str, Blocked]:
    """The agents whose class is shut in every worker that serves it."""
    shut: dict[str, Blocked] = {}
    served: set[str] = set()
    for worker in workers:
        agents, doors = worker.facts.get("agents"), worker.facts.get("doors")
        if worker.stopping or not isinstance(agents, list):
            continue
        for agent in filter(_is_name, agents):
            told = _read(doors.get(agent)) if isinstance(doors, dict) else None
            if told is None:
                served.add(agent)
            else:
                shut[agent] = _sooner(shut.get(agent), told)
    return {agent: blocked for agent, blocked in shut.items() if agent not in served}


def _sooner(one: Blocked | None, other: Blocked) -> Blocked:
    if one is None or one.until is None:
        return other
    return one if other.until is None or one.until <= other.until else other


def _is_name(told: object) -> TypeGuard[str]:
    return isinstance(told, str)


def _read(told: Any) -> Blocked | None:
    """What a worker tells of a class; None for what has not the form of ours."""
    match told:
        case [str(reason), str() | None as key, int() | float() | None as until]:
            return Blocked(reason, key, until)
    return None
