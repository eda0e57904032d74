"""How many runs tenants with a bound have queued: counted in the record, and this process' own accepts since added.

The count is of runs older than an id, and what this process accepted from that id on is known here, so with one API
process it is exact while nothing is claimed. A claim shows with the next count: soon, where a queue is nearly full.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.ids import IdMaker
from tollway.record.accept import Accepted
from tollway.record.database import Database
from tollway.record.quotas import count_queued

COUNT_EVERY_S = 1.0
COUNT_NEAR_S = 0.05
PER_COUNT = 20.0


class _Depth:
    """One tenant: the last count, and the ids accepted here that it leaves out; those not durable yet are `pending`."""

    __slots__ = ("counted", "counted_at", "own", "pending")

    def __init__(self) -> None:
        self.counted: int | None = None
        self.counted_at = float("-inf")
        self.own: dict[UUID, None] = {}
        self.pending: set[UUID] = set()


class Depths:
    """Asked at the door, without waiting; counts only while somebody asks or a queue is full."""

    def __init__(self, database: Database, ids: IdMaker, clock: Clock, lanes: Sequence[str]) -> None:
        self._database = database
        self._ids = ids
        self._clock = clock
        self._lanes = lanes
        self._depths: dict[str, _Depth] = {}
        self._wanted: dict[str, int] = {}
        self._next_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def is_full(self, tenant: str, most: int) -> bool:
        """Whether the tenant has as many runs queued as it may."""
        depth = self._depths.get(tenant)
        if depth is None:
            depth = self._depths[tenant] = _Depth()
        queued = (depth.counted or 0) + len(depth.own)
        near = depth.counted is None or 2 * queued >= most
        due_at = depth.counted_at + (COUNT_NEAR_S if near else COUNT_EVERY_S)
        self._want({tenant: most}, max(0.0, due_at - self._clock.monotonic()))
        return queued >= most

    def entered(self, tenant: str, run_id: UUID, accepting: "asyncio.Future[Accepted] | None" = None) -> None:
        """A run of the tenant is being accepted, or without a future was; one refused by the record, known already, or
        ended at once does not count."""
        depth = self._depths.get(tenant)
        if depth is None:
            return
        depth.own[run_id] = None
        if accepting is None:
            return
        depth.pending.add(run_id)

        def told(done: "asyncio.Future[Accepted]") -> None:
            depth.pending.discard(run_id)
            if done.cancelled() or done.exception() is not None or done.result().replayed or done.result().ended:
                depth.own.pop(run_id, None)

        accepting.add_done_callback(told)

    def govern(self, bounds: Mapping[str, int]) -> None:
        """These tenants have a bound: those not counted yet are counted now, the others are forgotten."""
        self._depths = {tenant: depth for tenant, depth in self._depths.items() if tenant in bounds}
        fresh = {tenant: most for tenant, most in bounds.items() if tenant not in self._depths}
        self._depths |= {tenant: _Depth() for tenant in fresh}
        if fresh:
            self._want(fresh, 0.0)

    async def settle(self) -> None:
        """Wait for a count under way, so that what was just bounded is known."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self) -> None:
        """Count no more; a second stop is nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _want(self, bounds: Mapping[str, int], in_s: float) -> None:
        self._wanted |= bounds
        if self._task is not None:
            return
        loop = asyncio.get_running_loop()
        due_s = max(in_s, self._next_at - self._clock.monotonic())
        if due_s <= 0:
            self._begin()
        elif self._timer is None or self._timer.when() > loop.time() + due_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_later(due_s, self._begin)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._count(), name="depths")

    async def _count(self) -> None:
        wanted, self._wanted = self._wanted, {}
        began_at = self._clock.monotonic()
        before = min(self._pending(wanted), default=self._ids.new())
        try:
            counted = await count_queued(self._database, self._lanes, wanted, before)
        except DatabaseUnavailable:
            counted = {}
        now = self._clock.monotonic()
        self._next_at = now + max(COUNT_NEAR_S, PER_COUNT * (now - began_at))
        self._task = None
        full = {}
        for tenant, queued in counted.items():
            depth = self._depths.get(tenant)
            if depth is not None:
                depth.counted, depth.counted_at = queued, began_at
                depth.own = {run_id: None for run_id in depth.own if run_id >= before}
                if queued + len(depth.own) >= wanted[tenant]:
                    full[tenant] = wanted[tenant]
        if full:  # so that whoever comes after a while does not meet an old refusal
            self._want(full, COUNT_EVERY_S)
        elif self._wanted:
            self._want({}, 0.0)

    def _pending(self, tenants: Iterable[str]) -> list[UUID]:
        found: list[UUID] = []
        for tenant in tenants:
            depth = self._depths.get(tenant)
            if depth is not None:
                found += depth.pending
        return found
