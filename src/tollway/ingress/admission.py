"""Admission: whether a run or a call that is in order is taken now, and when the run should start.

    knock ─▶ (the request is read) ─▶ place ─▶ accept
    quotas of the tenant              depth of the lane, budgets, forecast against deadline_s, ttl_s and max_wait_s

All of it is answered from memory, so that a refusal costs little; only a request with an idempotency key is looked up
before it is refused, since it may repeat one that was taken. A run that has begun is never turned away.
"""

import asyncio
from functools import partial
from typing import Any

from tollway.domain.errors import Problem
from tollway.domain.llm import Caller
from tollway.ingress.depths import Depths
from tollway.ingress.forecasts import Entry, Forecasts
from tollway.ingress.money import Money
from tollway.ingress.problems import Limit, limited
from tollway.ingress.quotas import Quotas
from tollway.ingress.scaling import LoadBoard
from tollway.ingress.services import ApiServices
from tollway.ingress.standing import KnownStanding
from tollway.ingress.submission import Asked
from tollway.llm.books import Terms
from tollway.queue.admission import Bounds, Late, too_late
from tollway.record.accept import Accepted, NewRun
from tollway.record.accounts import AccountBoard

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
        self._accounts = AccountBoard(services.database, services.news)
        self.money = Money(services.sync, self._accounts, services.clock)
        self.standing = KnownStanding(services.sync, services.clock, self.money.blocked)
        self.forecasts = Forecasts(board, self.standing, services.sync, services.clock)
        depths = Depths(services.database, services.ids, services.clock, services.options.lanes)
        self.quotas = Quotas(services.sync, services.tokens, depths, services.clock)
        self._accepting: set[tuple[str, str | None]] = set()
        services.sync.tell(self._facts)
        for lane in services.options.lanes:
            services.metrics.predicted_wait.read(partial(self.forecasts.drained_in_s, lane), lane)

    def start(self) -> None:
        """Begin to keep count; a second start is nothing."""
        self._services.tokens.start()
        self._accounts.start()

    async def stop(self) -> None:
        """Save what was counted, and end; a second stop is nothing."""
        self.forecasts.stop()
        await self._accounts.stop()
        await self.quotas.depths.stop()
        await self._services.tokens.stop()

    def knock(self, tenant: str, *, keyed: bool = False) -> Problem | None:
        """Let one more run of the tenant come in, before it is read. Raises Problem.

        Returns the Problem of a request that is `keyed`: it may be a repeat.
        """
        record = self._services.sync.snapshot.tenants.get(tenant)
        if record is None:
            return None
        try:
            self.quotas.check_run(record)
        except Problem as refusal:
            if not keyed:
                raise
            return refusal
        return None

    def knock_to_call(self, caller: Caller, terms: Terms) -> None:
        """The same of a call over the wire; one that may get a kept answer perhaps needs no money. Raises Problem."""
        record = self._services.sync.snapshot.tenants.get(caller.tenant)
        if record is not None:
            self.quotas.check_call(record)
            if not terms.cache:
                self.money.check_call(caller)

    def place(self, entry: Entry, deadline_at: float | None = None, ttl_s: float | None = None) -> float:
        """When the run should start, epoch seconds.

        Raises Problem `budget_exhausted`, `queue_full`, `overloaded` if too late.
        """
        caller = Caller(entry.tenant, entry.lane, entry.agent, task_type=entry.task_type, key_id=entry.key_id)
        must = [] if deadline_at is None else [deadline_at]
        if ttl_s is not None:
            must.append(entry.now + ttl_s)
        self.money.check_run(caller, min(must, default=None))
        limits = self._lanes.get(entry.lane)
        if limits is not None and limits.max_queued is not None:
            queued = self.forecasts.queued(entry.lane)
            if queued is not None and queued >= limits.max_queued:
                raise _lane_full(entry.lane, limits.max_queued)
        waits = self.money.parks(caller)
        start = self.forecasts.start(entry)
        if waits is not None:  # its budget decides, not its lane
            return start.at if waits.until is None else max(start.at, waits.until)
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

    def accept(self, asked: Asked) -> "asyncio.Future[Accepted]":
        """Hand a placed run to the record, and count it; of a refused one only look up what its key made.

        See `Accepts.accept` and `Accepts.repeat`.
        """
        run, accepts = asked.run, self._services.accepts
        key = (run.tenant, run.idempotency_key)
        # beside a request with its key that is on its way, the record decides: the look-up would come too early
        if asked.refusal is not None and key not in self._accepting:
            accepting = accepts.repeat(run, asked.refusal)
        else:
            accepting = accepts.accept(run)
            self.entered(run, accepting)
            if run.idempotency_key is not None:
                self._accepting.add(key)
        if run.idempotency_key is not None or run.concurrency_key is not None:
            accepting.add_done_callback(partial(self._settled, asked))
        return accepting

    def entered(self, run: NewRun, accepting: "asyncio.Future[Accepted] | None" = None) -> None:
        """A run is on its way into the record, or without a future is there."""
        self.quotas.depths.entered(run.tenant, run.id, accepting)
        if run.delay_s <= 0:
            self.forecasts.entered(run.id, (run.lane, run.agent, run.tenant))

    def _settled(self, asked: Asked, done: "asyncio.Future[Accepted]") -> None:
        """What is no new run, or ended at once, is not in the queue and took nothing of the tenant's rate."""
        run = asked.run
        if asked.refusal is None:
            self._accepting.discard((run.tenant, run.idempotency_key))
        accepted = None if done.cancelled() or done.exception() is not None else done.result()
        if accepted is None or accepted.replayed or accepted.ended:
            self.forecasts.left(run.id)
        if accepted is not None and accepted.replayed and asked.charged:
            self.quotas.give_back(run.tenant)

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
