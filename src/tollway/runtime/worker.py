"""A worker: claims runs, executes each in a slot, writes how it ended. It holds no state that matters past a step.

news / poll ─▶ claimer ─▶ take ─▶ Execution (a task each) ─▶ ending ─▶ slot freed
                             ▲ cancel news, fence lost, SIGTERM
"""

import asyncio
import os
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.outcomes import Abandoned, Cancelled, Dead, HandedBack, Outcome, Parked, RetryAt
from tollway.hotstate.broadcast import Broadcast
from tollway.queue.bulkheads import Held
from tollway.queue.service import Served
from tollway.record.cancel import read_asker
from tollway.record.claims import Claim, Claims, LineCosts
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.writes import Leaving
from tollway.runtime.claimer import Claimer, ClaimerOptions
from tollway.runtime.endings import write_ending
from tollway.runtime.executor import Execution
from tollway.runtime.journal import RunJournal
from tollway.runtime.journal_writer import JournalWriter
from tollway.runtime.registry import Registry
from tollway.runtime.run import RunServices
from tollway.spend.budgets import NO_BUDGETS, Budgets
from tollway.telemetry.cpu import CpuShare
from tollway.telemetry.logs import get_logger
from tollway.telemetry.metrics import Metrics

log = get_logger(__name__)

POLL_S = 2.0
POLL_DEAF_S = 1.0
RECONCILE_EVERY_S = 5.0
TRUE_UP_EVERY_S = 1.0
CANCEL_POLL_S = 0.7
OPEN_RETRY_S = 0.5
WAIT_WEIGHT = 0.1
FIRST_CLAIM_SEQ = 3
LAG_WEIGHT = 0.05
NANO_PER_BUSY_SECOND = 1_000_000
_RETURNED: dict[type, str] = {RetryAt: "retried", HandedBack: "handed_back", Parked: "parked", Abandoned: "lost"}


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What a worker works with; `claims` and `record` are bound to its process id; `budgets` pay for its calls."""

    database: Database
    claims: Claims
    record: JournalRecord
    broadcast: Broadcast
    clock: Clock
    runs: RunServices
    metrics: Metrics
    budgets: Budgets = NO_BUDGETS


class Worker:
    """Executes runs until stopped."""

    def __init__(self, worker_id: int, registry: Registry, options: ClaimerOptions, services: WorkerServices) -> None:
        self.id = worker_id
        self.abandoned = False
        self.waits_s: dict[str, float] = {}
        self._served = Served()
        self.lag_s = 0.0
        self.cpu = CpuShare()
        self._registry = registry
        self._doors = options.doors
        self._services = services
        written = services.runs.tokens.written
        self._writer = JournalWriter(services.record, written, services.metrics, services.budgets)
        self._running: dict[UUID, Execution] = {}
        self._held = Held()
        self._tasks: set[asyncio.Task[None]] = set()
        self._costs: dict[tuple[str, str, str], LineCosts] = {}
        self._claimer = Claimer(services.claims, services.clock, options, self._held, self.take, self._poll_s)
        self._left: set[str] = set()
        self._cap_eased = asyncio.Event()
        self._strangers: set[tuple[UUID, int]] = set()
        self._cancel_wanted = asyncio.Event()
        self._claiming: asyncio.Task[None] | None = None
        self._background: list[asyncio.Task[None]] = []
        self._unsubscribe: list[Any] = []
        services.metrics.runs_running.read(lambda: len(self._running))

    @property
    def claiming(self) -> bool:
        """Whether this worker is taking runs just now."""
        return self._claimer.claiming

    @property
    def running(self) -> int:
        """Runs in slots now."""
        return len(self._running)

    @property
    def served(self) -> dict[str, dict[str, list[float]]]:
        """What this worker has served so far, and holds now, by lane and agent."""
        now = self._services.clock.monotonic()
        running = list(self._running.values())
        return self._served.told((held.claim.lane, held.claim.agent, now - held.began_at) for held in running)

    def note_lag(self, lag_s: float) -> None:
        """The event loop ran so late: `lag_s` is the mean of the last seconds."""
        self.lag_s += LAG_WEIGHT * (lag_s - self.lag_s)

    async def start(self) -> None:
        """Begin to claim; a second start is nothing."""
        if self._claiming is not None:
            return
        self.begin_alone()
        self._unsubscribe.append(self._services.broadcast.subscribe("queue", self._claimer.news))
        self._doors.watch(self._claimer.news)
        self._claiming = asyncio.get_running_loop().create_task(self._claimer.run(), name="claimer")

    async def stop(self, grace_s: float) -> None:
        """Claim no more, finish within the grace time, hand back the rest; a second stop is nothing."""
        self._claimer.stop()
        self._doors.stop()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []
        if self._claiming is not None:
            await asyncio.wait({self._claiming})
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace_s)
        for execution in list(self._running.values()):
            execution.stop(HandedBack())
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=10)
        background, self._background = self._background, []
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        with suppress(DatabaseUnavailable):
            await self._true_up()
            await self._open_full()

    async def settled(self) -> None:
        """Wait until what its runs' journals hold by now is written."""
        await self._writer.settled()

    def abandon(self) -> None:
        """Another process was given this worker's runs: stop them all, and write nothing."""
        self.abandoned = True
        self._claimer.stop()
        for execution in list(self._running.values()):
            execution.stop(Abandoned())

    def take(self, claims: Sequence[Claim]) -> None:
        """Start executing what was claimed."""
        again = [
            claim for claim in claims if claim.steps or claim.errors or claim.lost or claim.next_seq > FIRST_CLAIM_SEQ
        ]
        for claim in claims:
            self._held.add(claim.lane, claim.agent, claim.tenant)
            self._services.metrics.runs_claimed.add(claim.lane)
            self._served.claimed(claim.lane, claim.agent)
            self._doors.took(claim.lane, claim.agent)
            self._note_wait(claim)
        if again:
            self._spawn(self._take_again(again))
        seen = {claim.run_id for claim in again}
        for claim in claims:
            if claim.run_id not in seen:
                self._spawn(self._execute(claim, ()))

    async def run_alone(self, claim: Claim) -> None:
        """Execute one claim and nothing else."""
        self.take([claim])
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def begin_alone(self) -> None:
        """Obey cancels and keep books without claiming."""
        loop = asyncio.get_running_loop()
        self._unsubscribe = [self._services.broadcast.subscribe("cancel", lambda _: self._cancel_wanted.set())]
        self._background = [
            loop.create_task(self._obey_cancels(), name="cancels"),
            loop.create_task(self._keep_books(), name="books"),
            loop.create_task(self._open_lines(), name="lines"),
        ]

    def _poll_s(self) -> float:
        return POLL_S if self._services.broadcast.connected else POLL_DEAF_S

    def _spawn(self, work: Any) -> None:
        task = self._services.runs.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_again(self, claims: Sequence[Claim]) -> None:
        """Runs that began before: their journals are read first."""
        while True:
            try:
                journals = await self._services.record.steps([claim.run_id for claim in claims])
                stood = await self._services.record.stood([claim.run_id for claim in claims])
                bounded = [claim.run_id for claim in claims if claim.budget_nano is not None]
                unknown = await self._services.record.unknown_nano(bounded) if bounded else {}
                break
            except DatabaseUnavailable:
                await asyncio.sleep(0.5)
        for claim in claims:
            run_id = claim.run_id
            self._spawn(self._execute(claim, journals.get(run_id, ()), stood.get(run_id, ()), unknown.get(run_id, 0)))

    async def _execute(
        self, claim: Claim, recorded: Sequence[Any], stood: Sequence[str] = (), unknown_nano: int = 0
    ) -> None:
        spec = self._registry.get(claim.agent)
        journal = RunJournal(claim, recorded, self._writer, self._services.clock, str(self.id))
        journal.stood_on(stood)
        journal.purse.spend(unknown_nano)
        spent_before = journal.spent_nano
        if spec is None:  # claims name this worker's agents, so this is another's claim come back after a change
            self._free(claim)
            return
        earlier = self._running.get(claim.run_id)
        if earlier is not None:
            earlier.stop(Abandoned())
        execution = Execution(spec, journal, self._services.clock, self._services.runs)
        self._running[claim.run_id] = execution
        outcome: Outcome = Abandoned()
        if claim.cancelled_by is not None:  # asked of an earlier holder, who could not obey any more
            execution.stop(_cancelled(claim.cancelled_by))
        try:
            outcome = await execution.run()
            if not await write_ending(execution, outcome):
                outcome = Abandoned()
        except Exception as error:
            log.failure("run.broken", error, run_id=str(claim.run_id))
            outcome = await self._bury(execution)
        finally:
            journal.holds.let_go()
            if self._running.get(claim.run_id) is execution:
                del self._running[claim.run_id]
            self._free(claim)
            if not claim.steps:
                self._doors.ended(claim.agent, journal.first_tier)
            self._tell(claim, outcome)
            took_s = self._services.clock.monotonic() - execution.began_at
            self._served.ended(claim.lane, claim.agent, took_s)
            self._account(claim, outcome, journal.spent_nano - spent_before or int(took_s * NANO_PER_BUSY_SECOND))

    async def _bury(self, execution: Execution) -> Outcome:
        """A run that the worker itself could not end: a dead letter, rather than to be tried for ever."""
        dead = Dead("internal", "the worker could not write how the run ended; its log says why")
        with suppress(Exception):
            if await write_ending(execution, dead):
                return dead
        return Abandoned()

    def _free(self, claim: Claim) -> None:
        self._held.free(claim.lane, claim.agent, claim.tenant)
        self._claimer.slot_freed()

    def _tell(self, claim: Claim, outcome: Outcome) -> None:
        news = self._services.broadcast
        news.publish("run", str(claim.run_id))
        if isinstance(outcome, RetryAt | Parked):
            news.publish("due", "")
        elif claim.hooked:
            news.publish("webhook", "")
        if claim.capped:
            self._left.add(claim.tenant)
            self._cap_eased.set()
        self._count(claim, outcome)

    def _account(self, claim: Claim, outcome: Outcome, cost_nano: int) -> None:
        """What this claim cost, beyond what its line was charged; one cut short says nothing of what the next costs."""
        line = self._costs.setdefault((claim.lane, claim.agent, claim.tenant), LineCosts())
        line.due += (cost_nano - claim.est_nano) / claim.weight
        if not isinstance(outcome, Abandoned | HandedBack | Cancelled):
            line.runs += 1
            line.cost_nano += cost_nano

    def _count(self, claim: Claim, outcome: Outcome) -> None:
        metrics, returned = self._services.metrics, _RETURNED.get(type(outcome))
        if returned is not None:
            metrics.runs_returned.add(claim.lane, returned)
            return
        metrics.runs_ended.add(claim.lane, type(outcome).__name__.lower())
        metrics.run_seconds.observe(self._services.clock.now() - claim.created_at.timestamp(), claim.lane)

    def _note_wait(self, claim: Claim) -> None:
        if claim.errors == 0 and claim.lost == 0:
            waited_s = max(0.0, (claim.started_at - claim.created_at).total_seconds())
            before = self.waits_s.get(claim.lane, waited_s)
            self.waits_s[claim.lane] = before + WAIT_WEIGHT * (waited_s - before)
            if claim.predicted_start_at is not None and claim.next_seq <= FIRST_CLAIM_SEQ:
                self._note_error(claim, waited_s, claim.predicted_start_at)

    def _note_error(self, claim: Claim, waited_s: float, predicted_at: datetime) -> None:
        """How far the door's forecast was off."""
        metrics, error_s = self._services.metrics, abs((claim.started_at - predicted_at).total_seconds())
        metrics.start_error_seconds.observe(error_s, claim.lane)
        if waited_s > 1.0:
            metrics.start_error_ratio.observe(error_s / waited_s, claim.lane)

    async def _obey_cancels(self) -> None:
        while True:
            with suppress(TimeoutError):
                idle_s = 60.0 if self._services.broadcast.connected or not self._running else CANCEL_POLL_S
                async with asyncio.timeout(idle_s):
                    await self._cancel_wanted.wait()
            self._cancel_wanted.clear()
            if not self._running:
                continue
            with suppress(DatabaseUnavailable):
                for row in await self._services.database.rows("cancelled_held", self.id):
                    execution = self._running.get(row["run_id"])
                    if execution is not None and execution.claim.fence == row["fence"]:
                        execution.stop(_cancelled(row["cancelled_by"]))

    async def _keep_books(self) -> None:
        """True up what runs cost, and give back claims whose answer never arrived."""
        reconcile_at = 0.0
        while True:
            await asyncio.sleep(TRUE_UP_EVERY_S * random.uniform(0.75, 1.25))
            with suppress(DatabaseUnavailable):
                await self._true_up()
                now = self._services.clock.monotonic()
                if now >= reconcile_at:
                    reconcile_at = now + RECONCILE_EVERY_S
                    await self._reconcile()

    async def _open_lines(self) -> None:
        """Open the lines of capped tenants whose runs left their slots."""
        while True:
            await self._cap_eased.wait()
            self._cap_eased.clear()
            try:
                await self._open_full()
            except DatabaseUnavailable:
                self._cap_eased.set()
                await asyncio.sleep(OPEN_RETRY_S * random.uniform(0.5, 1.5))

    async def _open_full(self) -> None:
        left, self._left = self._left, set()
        try:
            opened = await self._services.claims.turn_capped(list(left)) if left else []
        except DatabaseUnavailable:
            self._left |= left
            raise
        for lane in opened:
            self._services.broadcast.publish("queue", lane)
            self._claimer.news(lane)

    async def _true_up(self) -> None:
        costs, self._costs = self._costs, {}
        if costs:
            await self._services.claims.true_up(costs)

    async def _reconcile(self) -> None:
        known = {(run_id, execution.claim.fence) for run_id, execution in self._running.items()}
        rows = await self._services.database.rows("held_by", self.id)
        self._strangers, before = {(row["run_id"], row["fence"]) for row in rows} - known, self._strangers
        lost = [row for row in rows if (row["run_id"], row["fence"]) in self._strangers & before]
        if lost:  # unknown at two looks in a row, so not just on their way in or out
            await self._services.record.requeue(
                [Leaving(r["run_id"], r["fence"], r["next_seq"], None, 0, "handed_back", None) for r in lost]
            )


def _cancelled(asked_by: str) -> Cancelled:
    kind, actor, by = read_asker(asked_by)
    return Cancelled(kind, actor, by)


def process_facts(worker: Worker, options: ClaimerOptions, metrics: Metrics) -> dict[str, Any]:
    """What a worker's row tells the others."""
    return {
        "metrics": metrics.snapshot(),
        "claiming": worker.claiming,
        "agents": list(options.agents),
        "lanes": list(options.lanes),
        "slots": options.slots,
        "running": worker.running,
        "waits": {lane: round(wait, 4) for lane, wait in worker.waits_s.items()},
        "served": worker.served,
        "lag_s": round(worker.lag_s, 4),
        "cpu": round(worker.cpu.read(), 3),
        "supervisor": os.environ.get("TOLLWAY_SUPERVISOR", ""),
    }
