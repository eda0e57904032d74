"""`tollway up --autoscale`: worker processes come and go by the scaling signal, within their bounds.

A worker that is no longer wanted drains: it finishes within `worker.grace_s` or hands back, as at any SIGTERM. While
the signal cannot be read nothing changes.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from tollway.config import Settings
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.queue.autoscaler import Autoscaler, Bounds
from tollway.queue.scaling import Scaling
from tollway.record.backlog import BacklogWatch
from tollway.record.database import Database
from tollway.record.processes import LiveProcess, live_processes
from tollway.runtime.supervisor import ChildSpec, Supervisor
from tollway.telemetry.logs import get_logger
from tollway.wiring.base import database_options, lane_aims

log = get_logger(__name__)

LOOK_EVERY_S = 1.0
IDLE_LOOK_EVERY_S = 2.0
_PREFIX = "worker-"


def worker_name(number: int) -> str:
    """What the supervisor calls a worker."""
    return f"{_PREFIX}{number}"


class Autoscaling:
    """Looks at the signal and has the supervisor start and stop workers; `make` is the spec of one by its number."""

    def __init__(
        self,
        children: Supervisor,
        make: Callable[[int], ChildSpec],
        bounds: Bounds,
        settings: Settings,
        supervisor: str,
    ) -> None:
        self._children = children
        self._make = make
        self._settings = settings
        self._supervisor = supervisor
        self._scaler = Autoscaler(bounds, settings.worker.scale_down_after_s)
        self._scaling = Scaling(lane_aims(settings), settings.worker.slots)
        self._clock = AnchoredClock()
        self._numbers = set(range(1, bounds.least + 1))
        self._ending: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Scale until cancelled, or until the children are told to stop."""
        while not self._children.stopping:
            try:
                options = await database_options(self._settings, "autoscale")
                await self._look_through(Database(replace(options, connections_max=1), self._clock))
            except (DatabaseUnavailable, ConfigError) as error:
                log.warning("autoscale.blind", error=str(error))
                self._apply(None)
                await asyncio.sleep(LOOK_EVERY_S)

    async def _look_through(self, database: Database) -> None:
        """Look and scale for as long as the database can be reached."""
        watch = BacklogWatch(database, self._clock)
        await database.start(anchor=False)
        try:
            while not self._children.stopping:
                wanted, idle = await self._wanted(database, watch)
                self._apply(wanted)
                await asyncio.sleep(IDLE_LOOK_EVERY_S if idle else LOOK_EVERY_S)
        finally:
            await watch.stop()
            await database.stop()

    async def _wanted(self, database: Database, watch: BacklogWatch) -> tuple[int, bool]:
        """Workers wanted here, those elsewhere taken off; and whether there is nothing to do at all."""
        workers = await live_processes(database, "worker")
        backlog = await watch.fresh()
        self._scaling.hear(self._clock.monotonic(), _facts(workers))
        signal = self._scaling.signal(backlog.classes())
        elsewhere = sum(not self._is_ours(worker) and worker.facts.get("claiming") is True for worker in workers)
        return max(0, signal.wanted_workers - elsewhere), signal.wanted_workers == 0

    def _is_ours(self, worker: LiveProcess) -> bool:
        return worker.facts.get("supervisor") == self._supervisor

    def _apply(self, wanted: int | None) -> None:
        if self._children.stopping:
            return
        for number in [number for number, task in self._ending.items() if task.done()]:
            del self._ending[number]
        workers = len(self._numbers)
        step = self._scaler.look(self._clock.monotonic(), wanted, workers, len(self._ending))
        if step.workers > workers:
            log.info("autoscale.grow", workers=step.workers, before=workers, why=step.why)
            for _ in range(step.workers - workers):
                self._start()
        elif step.workers < workers:
            log.info("autoscale.shrink", workers=step.workers, before=workers, why=step.why)
            self._end(max(self._numbers))

    def _start(self) -> None:
        taken = self._numbers | self._ending.keys()
        number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        self._children.add(self._make(number))
        self._numbers.add(number)

    def _end(self, number: int) -> None:
        self._numbers.discard(number)
        loop = asyncio.get_running_loop()
        self._ending[number] = loop.create_task(self._children.remove(worker_name(number)), name="autoscale drain")


def _facts(workers: list[LiveProcess]) -> Mapping[int, Mapping[str, object]]:
    return {worker.id: worker.facts for worker in workers if not worker.stopping}
