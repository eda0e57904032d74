"""Admission: whether a run or a call that is in order is taken now, and when the run should start.

    knock ─▶ (the request is read) ─▶ place ─▶ accept
    quotas of the tenant              depth of the lane, forecast against deadline_s, ttl_s and max_wait_s

All of it is answered from memory, so that a refusal costs little. A run that has begun is never turned away.
"""

import asyncio
from functools import partial
from typing import Any

from tollway.domain.errors import Problem
from tollway.domain.llm import Caller
from tollway.ingress.depths import Depths
from tollway.ingress.forecasts import Entry, Forecasts
from tollway.ingress.problems import Limit, limited
from tollway.ingress.quotas import Quotas
from tollway.ingress.scaling import LoadBoard
from tollway.ingress.services import ApiServices
from tollway.ingress.standing import KnownStanding
from tollway.queue.admission import Bounds, Late, too_late
from tollway.record.accept import Accepted, NewRun

RETRY_MIN_S = 1.0
RETRY_MAX_S = 60.0
_SAYS = {
    "deadline_s": "past its deadline_s",
    "ttl_s": "past its ttl_s",
    "max_wait_s": "beyond the max_wait_s of lane {lane}",
}


class Admission:
    """The decisions at the door of one API process."""

    def __init__(self, services: ApiServices, board: LoadBoard) -> None:
        self._services = services
        self._lanes = services.options.lane_limits
        self.standing = KnownStanding(services.sync, services.clock)
        self.forecasts = Forecasts(board, self.standing, services.sync, services.clock)
        depths = Depths(services.database, services.ids, services.clock, services.options.lanes)
        self.quotas = Quotas(services.sync, services.tokens, depths, services.clock)
        services.sync.tell(self._facts)
        for lane in services.options.lanes:
            services.metrics.predicted_wait.read(partial(self.forecasts.drained_in_s, lane), lane)

    def start(self) -> None:
        """Begin to keep count; a second start is nothing."""
        self._services.tokens.start()

    async def stop(self) -> None:
        """Save what was counted, and end; a second stop is nothing."""
        await self.quotas.depths.stop()
        await self._services.tokens.stop()

    def knock(self, tenant: str) -> None:
        """Let one more run of the tenant come in, before it is read. Raises Problem."""
        record = self._services.sync.snapshot.tenants.get(tenant)
        if record is not None:
            self.quotas.check_run(record)

    def knock_to_call(self, caller: Caller) -> None:
        """The same of a call over the wire. Raises Problem."""
        record = self._services.sync.snapshot.tenants.get(caller.tenant)
        if record is not None:
            self.quotas.check_call(record)

    def place(self, entry: Entry, deadline_at: float | None = None, ttl_s: float | None = None) -> float:
        """When the run should start, epoch seconds. Raises Problem `queue_full`, `overloaded` if too late."""
        limits = self._lanes.get(entry.lane)
        if limits is not None and limits.max_queued is not None:
            queued = self.forecasts.queued(entry.lane)
            if queued is not None and queued >= limits.max_queued:
                raise _lane_full(entry.lane, limits.max_queued)
        start = self.forecasts.start(entry)
        if start.sure and not self.standing.paused(entry.tenant):
            bounds = Bounds(
                entry.now + entry.delay_s,
                deadline_at,
                None if ttl_s is None else entry.now + ttl_s,
                None if limits is None else limits.max_wait_s,
            )
            late = too_late(start.at, bounds)
            if late is not None:
                raise _too_late(entry, start.at, late)
        return start.at

    def accept(self, run: NewRun) -> "asyncio.Future[Accepted]":
        """Hand a placed run to the record, and count it. See `Accepts.accept`."""
        accepting = self._services.accepts.accept(run)
        self.entered(run, accepting)
        return accepting

    def entered(self, run: NewRun, accepting: "asyncio.Future[Accepted] | None" = None) -> None:
        """A run is on its way into the record, or without a future is there."""
        self.quotas.depths.entered(run.tenant, run.id, accepting)
        self.forecasts.entered(Entry(run.tenant, run.agent, run.lane, run.created_at, run.delay_s, run.priority_s))

    def _facts(self) -> dict[str, Any]:
        return {"asked": self.quotas.facts(), "accepts": self.forecasts.facts()}


def _lane_full(lane: str, most: int) -> Problem:
    detail = f"Lane {lane} has about {most} runs queued, as many as it may; try again when some have started."
    return limited("queue_full", Limit(f"lane_{lane}_max_queued", most), RETRY_MIN_S, detail)


def _too_late(entry: Entry, start_at: float, late: Late) -> Problem:
    wait_s = start_at - entry.now
    after_s = min(RETRY_MAX_S, max(RETRY_MIN_S, late.by_s))
    says = _SAYS[late.bound].format(lane=entry.lane)
    detail = (
        f"The run would start in about {wait_s:.0f} s, {says} by {late.by_s:.0f} s. Try again after {after_s:.0f} s"
    )
    detail += ", or use another lane." if late.bound == "max_wait_s" else ", or allow it more time."
    return limited("overloaded", Limit(late.bound, max(1.0, wait_s - late.by_s)), after_s, detail)
