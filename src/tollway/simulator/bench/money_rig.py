"""What money costs in the record: the same intents and ends of runs written with it and without, in turn."""

import asyncio
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
from tollway.record.processes import register_process
from tollway.record.rollup import Rollup
from tollway.record.writes import Ending, Entry, Fact, Intent, Move, Reservation, RunWrite, StepOutcome
from tollway.simulator.bench.queue_rig import AGENT, LANE, QueueRig
from tollway.simulator.bench.queue_worker import QueueWorker, backend_of
from tollway.spend.guard import BudgetGuard

TENANT = "default"
_BATCH = 100
_BATCHES = 10
_COUNTED = 3
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
    """Microseconds of CPU a call, the server's and ours together: its writes with money in them and without, its
    entry counted into the rollup, its worst case reserved in budgets and settled.
    """

    with_money_us: float
    without_us: float
    rollup_us: float
    guard_us: float

    @property
    def writes_us(self) -> float:
        """What money adds to the writes of a call: the reservation, what it moves in budgets, its entry."""
        return self.with_money_us - self.without_us

    @property
    def whole_us(self) -> float:
        """All money handling of a call."""
        return self.writes_us + self.rollup_us + self.guard_us


async def money_cost(rig: QueueRig, rounds: int) -> MoneyCost:
    """So many rounds of a thousand calls with money and as many without; count the ledger in; reserve in budgets."""
    guard_us = await _guarded(rig)  # before there are processes that would have to read the budgets first
    worker = await QueueWorker.of(rig)
    await rig.accept((2 * rounds + _COUNTED) * _BATCH * _BATCHES, repeat(TENANT))
    spent_s = {True: 0.0, False: 0.0}
    for number in range(2 * rounds):
        money = number % 2 == 0
        spent_s[money] += await _round(rig, worker, money=money)
    await _rollup(rig)
    for _ in range(_COUNTED):
        await _round(rig, worker, money=True)
    each = 1e6 / (rounds * _BATCH * _BATCHES)
    return MoneyCost(spent_s[True] * each, spent_s[False] * each, await _rollup(rig), guard_us)


async def _round(rig: QueueRig, worker: QueueWorker, *, money: bool) -> float:
    """A statement for the intents of each batch, one for its outcomes and ends; CPU seconds."""
    ids = IdMaker(rig.clock)
    batches = [[(claim, ids.new()) for claim in await _claimed(worker)] for _ in range(_BATCHES)]
    before = _spent_s(rig, worker.backends.ending)
    for calls in batches:
        intents = await worker.record.write([_intent(claim, call_id, money=money) for claim, call_id in calls])
        ends = await worker.record.complete([_ending(claim, call_id, money=money) for claim, call_id in calls])
        refused = [verdict for verdict in (*intents, *ends) if verdict is not True]
        if refused:
            raise RuntimeError(f"a write was refused: {refused[0]}")
    return _spent_s(rig, worker.backends.ending) - before


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


async def _rollup(rig: QueueRig) -> float:
    """Count what is new in as the keeper does; microseconds of CPU an entry, the end of its run included."""
    database = await rig.database()
    rollup, backend, entries = Rollup(database), await backend_of(database), 0
    before = _spent_s(rig, backend)
    while (counted := await rollup.count()).anything:
        entries += counted.entries
        if not counted.behind:
            break
    return (_spent_s(rig, backend) - before) * 1e6 / max(1, entries)


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
        before = _spent_s(rig, backend)
        for _ in range(_BATCHES):
            for _ in range(_CALLS):
                guard.standing(_CALLER)
                guard.settle(await guard.reserve(_CALLER, _RESERVED, _TTL_S), _NANO)
            await asyncio.sleep(_PAUSE_S)
        return (_spent_s(rig, backend) - before) * 1e6 / (_BATCHES * _CALLS)
    finally:
        await guard.stop()


def _spent_s(rig: QueueRig, backend: int) -> float:
    return time.process_time() + rig.cpu_s()[backend]
