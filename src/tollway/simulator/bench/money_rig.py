"""What money costs in the record: the same intents and ends of runs written with it and without, in turn."""

import asyncio
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import repeat
from uuid import UUID

from tollway.domain.budgets import Budget, LadderStep, Period, Rung
from tollway.domain.ids import IdMaker
from tollway.domain.llm import Caller, Usage
from tollway.record.budget_leases import BudgetLeases
from tollway.record.budgets import budgets_by_tenant, put_budgets
from tollway.record.claims import Claim
from tollway.record.database import Database
from tollway.record.processes import register_process
from tollway.record.rollup import Rollup
from tollway.record.spending import SpendRecord
from tollway.record.writes import Ending, Entry, Fact, Intent, Move, Reservation, RunWrite, StepOutcome
from tollway.simulator.accounting import thread_s
from tollway.simulator.bench.queue_rig import AGENT, LANE, QueueRig
from tollway.simulator.bench.queue_worker import QueueWorker, backend_of
from tollway.spend.guard import BudgetGuard

TENANT = "default"
_BATCH = 100
_BATCHES = 10
_CALLS = 1000
_PAUSE_S = 0.3
_TTL_S = 3600.0
_NANO, _RESERVED = 6_000, 12_000
_USAGE = Usage(40, 60)
_NO_MONEY = Reservation(0, "sim-fast")
_MONEY = Reservation(_RESERVED, "sim-fast", "fast", "fast", "sim-fast", "config@2025-04-14")
_ACCOUNTS = "1,2,3"
"""Accounts that no slice is held of: what is moved in them is a row that a lease would count in."""

_AMPLE_NANO = 10**15
_BUDGETS = [
    Budget(0, TENANT, Period.DAY, hard_nano=_AMPLE_NANO),
    Budget(0, TENANT, Period.WEEK, hard_nano=_AMPLE_NANO, lane=LANE),
    Budget(0, TENANT, Period.MONTH, hard_nano=_AMPLE_NANO, agent=AGENT, ladder=(LadderStep(90, Rung.LOWER_TIER),)),
]
_CALLER = Caller(TENANT, LANE, AGENT, f"{AGENT}@1")


@dataclass(frozen=True)
class MoneyCost:
    """Microseconds of CPU a call, the server's and ours together.

    What money adds to its writes (the reservation, what it moves in budgets, its entry); its entry counted into the
    rollup, and looked at for alerts; its worst case reserved in three budgets and settled. Medians of neighbours, since
    the machine changes its pace within a run.
    """

    writes_us: float
    rollup_us: float
    alerts_us: float
    guard_us: float

    @property
    def whole_us(self) -> float:
        """All money handling of a call."""
        return self.writes_us + self.rollup_us + self.alerts_us + self.guard_us


async def money_cost(rig: QueueRig, rounds: int) -> MoneyCost:
    """So many thousands of calls with money and as many without, batch by batch in turn; then a pass of the keeper's
    after each of half as many thousands, as every second; and calls that only reserve and settle.
    """
    guard_us = await _guarded(rig)  # before there are processes that would have to read the budgets first
    worker = await QueueWorker.of(rig)
    await rig.accept((2 * rounds + rounds // 2) * _BATCH * _BATCHES, repeat(TENANT))
    added = []
    for number in range(rounds * _BATCHES):
        spent_s = {money: await _batch(rig, worker, money=money) for money in (number % 2 == 0, number % 2 == 1)}
        added.append(spent_s[True] - spent_s[False])
    rollup_us, alerts_us = await _counted(rig, worker, rounds // 2)
    writes_us = statistics.median(added) * 1e6 / _BATCH
    return MoneyCost(writes_us, rollup_us, alerts_us, guard_us)


async def _batch(rig: QueueRig, worker: QueueWorker, *, money: bool) -> float:
    """A statement for the intents of a batch of runs, one for its outcomes and ends; CPU seconds."""
    ids = IdMaker(rig.clock)
    calls = [(claim, ids.new()) for claim in await _claimed(worker)]
    before = _spent_s(worker.backends.ending)
    intents = await worker.record.write([_intent(claim, call_id, money=money) for claim, call_id in calls])
    ends = await worker.record.complete([_ending(claim, call_id, money=money) for claim, call_id in calls])
    spent_s = _spent_s(worker.backends.ending) - before
    refused = [verdict for verdict in (*intents, *ends) if verdict is not True]
    if refused:
        raise RuntimeError(f"a write was refused: {refused[0]}")
    return spent_s


async def _claimed(worker: QueueWorker) -> list[Claim]:
    claims: list[Claim] = []
    while len(claims) < _BATCH:
        claims += await worker.claim(_BATCH - len(claims))
    return claims


def _intent(claim: Claim, call_id: UUID, *, money: bool) -> RunWrite:
    now, reserved = datetime.now(UTC), _MONEY if money else _NO_MONEY
    return RunWrite(
        claim.run_id,
        claim.tenant,
        claim.fence,
        claim.next_seq,
        claim.key_id if money else None,
        intents=[Intent(1, "1", "llm", "llm", 1, call_id, reserved, now)],
        facts=[Fact("step.intent", now, "worker", "1", None)],
        moves=[Move(call_id, _ACCOUNTS, 0, _RESERVED)] if money else [],
        new_steps=1,
    )


def _ending(claim: Claim, call_id: UUID, *, money: bool) -> Ending:
    now, cost = datetime.now(UTC), _NANO if money else 0
    outcome = StepOutcome(1, "done", now, b'{"text":"done"}', None, "sim-fast", 1, _USAGE, cost)
    entry = Entry(call_id, "settle", 1, "llm", _MONEY, _NANO, _USAGE, now)
    write = RunWrite(
        claim.run_id,
        claim.tenant,
        claim.fence,
        claim.next_seq + 1,
        claim.key_id if money else None,
        outcomes=[outcome],
        entries=[entry] if money else [],
        facts=[Fact("step.done", now, "worker", "1", None), Fact("succeeded", now, "worker", "1", None)],
        moves=[Move(call_id, _ACCOUNTS, _NANO, -_RESERVED)] if money else [],
    )
    return Ending(write, "succeeded", b'"done"', None, None, now)


async def _counted(rig: QueueRig, worker: QueueWorker, passes: int) -> tuple[float, float]:
    """What passes of the keeper's cost a call of runs of one call, in microseconds: for usage, the median of so many;
    for alerts, which look every few seconds, one over all of them.
    """
    database = await rig.database()
    rollup, backend, each = Rollup(database), await backend_of(database), []
    while (await rollup.count()).anything:
        pass
    await rollup.summarize()
    await _watched(rig, database)
    for _ in range(passes):
        for _ in range(_BATCHES):
            await _batch(rig, worker, money=True)
        before = _spent_s(backend)
        counted = await rollup.count()
        each.append((_spent_s(backend) - before) * 1e6 / counted.entries)
    await rollup.summarize()
    before = _spent_s(backend)
    await _watched(rig, database)
    return statistics.median(each), (_spent_s(backend) - before) * 1e6 / (passes * _BATCH * _BATCHES)


async def _watched(rig: QueueRig, database: Database) -> None:
    """Add up what is new for alerts."""
    async with database.connection() as connection, connection.transaction():
        await SpendRecord(database).fold(connection, rig.clock.now())


async def _guarded(rig: QueueRig) -> float:
    """Reserve and settle in three budgets as a process does, a thousand calls at a time; microseconds a call."""
    database = await rig.database()
    put = await put_budgets(database, TENANT, _BUDGETS)
    budgets = budgets_by_tenant(await database.rows("list_budgets"))
    process = await register_process(database, "worker", _TTL_S)
    guard = BudgetGuard(BudgetLeases(database), rig.clock)
    guard.start(lambda: process, lambda: budgets)
    guard.changed(put.version)
    try:
        guard.settle(await guard.reserve(_CALLER, _RESERVED, _TTL_S), _NANO)
        backend = await backend_of(database)
        before = _spent_s(backend)
        for _ in range(_BATCHES):
            for _ in range(_CALLS):
                guard.standing(_CALLER)
                guard.settle(await guard.reserve(_CALLER, _RESERVED, _TTL_S), _NANO)
            await asyncio.sleep(_PAUSE_S)
        return (_spent_s(backend) - before) * 1e6 / (_BATCHES * _CALLS)
    finally:
        await guard.stop()


def _spent_s(backend: int) -> float:
    return time.process_time() + thread_s(backend)
