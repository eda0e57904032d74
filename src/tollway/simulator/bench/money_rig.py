"""What money costs in the record: the same intents and ends of runs written with it and without, batch by batch in turn."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, repeat
from uuid import UUID

from tollway.domain.ids import IdMaker
from tollway.domain.llm import Usage
from tollway.record.claims import Claim
from tollway.record.rollup import Rollup
from tollway.record.writes import Ending, Entry, Fact, Intent, Move, Reservation, RunWrite, StepOutcome
from tollway.simulator.bench.queue_rig import AGENT, QueueRig
from tollway.simulator.bench.queue_worker import QueueWorker

CALLS_A_BATCH = 100
_NANO, _RESERVED = 6_000, 12_000
_USAGE = Usage(40, 60)
_NO_MONEY = Reservation(0, "sim-fast")
_MONEY = Reservation(_RESERVED, "sim-fast", "fast", "fast", "sim-fast", "config@2025-04-14")
_ACCOUNTS = "1,2,3"
"""Accounts that no slice is held of: what is moved in them is a row that a lease would count in."""


@dataclass(frozen=True)
class Written:
    """Microseconds of CPU a call, the server's and ours together, medians of batches."""

    with_money_us: float
    without_us: float
    rollup_us: float

    @property
    def added_us(self) -> float:
        """What money adds to the writes of a call, its counting in the rollup included."""
        return self.with_money_us - self.without_us + self.rollup_us


async def written(rig: QueueRig, batches: int) -> Written:
    """Write so many batches of calls with money and as many without; then count the ledger in."""
    worker = await QueueWorker.of(rig)
    await rig.accept(2 * batches * CALLS_A_BATCH, repeat("bench"))
    costs: dict[bool, list[float]] = {True: [], False: []}
    for _, money in zip(range(2 * batches), cycle((True, False)), strict=False):
        claims = await _claimed(worker)
        costs[money].append(await _batch(rig, worker, claims, money=money))
    return Written(statistics.median(costs[True]), statistics.median(costs[False]), await _rollup(rig))


async def _claimed(worker: QueueWorker) -> list[Claim]:
    claims: list[Claim] = []
    while len(claims) < CALLS_A_BATCH:
        claims += await worker.claim(CALLS_A_BATCH - len(claims))
    return claims


async def _batch(rig: QueueRig, worker: QueueWorker, claims: Sequence[Claim], *, money: bool) -> float:
    """One statement for the intents, one for outcomes and ends: microseconds a call."""
    ids = IdMaker(rig.clock)
    calls = [(claim, ids.new()) for claim in claims]
    before = _spent_s(rig, worker)
    for verdict in await worker.record.write([_intent(claim, call_id, money=money) for claim, call_id in calls]):
        _must(verdict)
    for verdict in await worker.record.complete([_ending(claim, call_id, money=money) for claim, call_id in calls]):
        _must(verdict)
    return (_spent_s(rig, worker) - before) * 1e6 / len(calls)


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
    """Count what is new in as the keeper does; microseconds of CPU an entry of the ledger."""
    database = await rig.database()
    rollup = Rollup(database)
    before, entries = _all_s(rig), 0
    while (counted := await rollup.count()).anything:
        entries += counted.entries
        if not counted.behind:
            break
    return (_all_s(rig) - before) * 1e6 / max(1, entries)


def _spent_s(rig: QueueRig, worker: QueueWorker) -> float:
    return time.process_time() + rig.cpu_s()[worker.backends.ending]


def _all_s(rig: QueueRig) -> float:
    return time.process_time() + sum(rig.cpu_s().values())


def _must(verdict: object) -> None:
    if verdict is not True:
        raise RuntimeError(f"a write was refused: {verdict}")
