"""What one API process knows of the load: the queue counted on demand, service as workers tell it, the signal."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.ingress.services import ApiOptions
from tollway.queue.scaling import LaneAim, Scaling, Signal
from tollway.queue.service import Rates
from tollway.record.backlog import BacklogWatch
from tollway.record.database import Database
from tollway.record.settings_sync import SettingsSync
from tollway.telemetry.metrics import Gauge, Metrics

_METRICS_WAIT_S = 1.0


class LoadBoard:
    """Answers `GET /v1/scaling`, feeds the queue's gauges; `backlog` and `rates` are there for others to use."""

    def __init__(
        self, database: Database, sync: SettingsSync, clock: Clock, options: ApiOptions, metrics: Metrics
    ) -> None:
        self.backlog = BacklogWatch(database, clock)
        self._sync = sync
        self._clock = clock
        self._metrics = metrics
        aims = {lane: options.aims.get(lane, LaneAim()) for lane in options.lanes}
        self._scaling = Scaling(aims, options.slots)
        self._shown: Signal | None = None
        self._gauged: set[tuple[str, ...]] = set()
        sync.on_processes(self.hear)

    @property
    def rates(self) -> Rates:
        """Service by lane and agent, over the last seconds."""
        return self._scaling.rates

    async def signal(self, tenant: str | None = None) -> Signal:
        """The signal over all tenants, or of one tenant's own work. Raises DatabaseUnavailable."""
        backlog = await self.backlog.fresh()
        return self._scaling.signal(backlog.classes(tenant), own=tenant is not None)

    async def refresh_gauges(self) -> None:
        """Have the gauges show the present, if that can be had within a second; else they stay as they are."""
        with suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(_METRICS_WAIT_S):
                self._shown = await self.signal()
            self._show(self._shown)

    async def stop(self) -> None:
        """Leave a count under way; a second stop is nothing."""
        await self.backlog.stop()

    def hear(self) -> None:
        """The workers' beats were read anew."""
        workers = {worker.id: worker.facts for worker in self._sync.workers if not worker.stopping}
        self._scaling.hear(self._clock.monotonic(), workers)

    def _show(self, signal: Signal) -> None:
        metrics = self._metrics
        for lane, shown in signal.lanes.items():
            for reason in shown.reasons:
                self._gauge(metrics.queue_blocked, partial(self._blocked, lane, reason), lane, reason)
            self._gauge(metrics.queue_runnable, partial(self._of, lane, "runnable"), lane)
            self._gauge(metrics.queue_running, partial(self._of, lane, "running"), lane)
            self._gauge(metrics.workers_wanted, partial(self._of, lane, "wanted_workers"), lane)

    def _gauge(self, gauge: Gauge, reader: Callable[[], float], *labels: str) -> None:
        if (gauge.name, *labels) not in self._gauged:
            self._gauged.add((gauge.name, *labels))
            gauge.read(reader, *labels)

    def _of(self, lane: str, what: str) -> float:
        return 0.0 if self._shown is None else float(getattr(self._shown.lanes[lane], what))

    def _blocked(self, lane: str, reason: str) -> float:
        return 0.0 if self._shown is None else float(self._shown.lanes[lane].reasons.get(reason, 0))
