"""What money costs in the record: the same intents and ends of runs written with it and without, in turn."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import repeat
from uuid import UUID

from tollway.domain.ids import IdMaker
from tollway.domain.llm import Usage
from tollway.record.claims import Claim
from tollway.record.rollup import Rollup
from tollway.record.writes import Ending, Entry, Fact, Intent, Move, Reservation, RunWrite, StepOutcome
from tollway.simulator.bench.queue_rig import QueueRig
from tollway.simulator.bench.queue_worker import QueueWorker

_BATCH = 100
_BATCHES = 10
_NANO, _RESERVED = 6_000, 12_000
_USAGE = Usage(40, 60)
_NO_MONEY = Reservation(0, "sim-fast")
_MONEY = Reservation(_RESERVED, "sim-fast", "fast", "fast", "sim-fast", "config@2025-04-14")
_ACCOUNTS = "1,2,3"
"""Accounts that no slice is held of: what is moved in them is a row that a lease would count in."""


@dataclass(frozen=True)
class Written:
    """Microseconds of CPU a call, the server's and ours together."""

    with_money_us: float
    without_us: float
    rollup_us: float

    @property
    def added_us(self) -> float:
        """What money adds to the writes of a call, its counting in the rollup included."""
        return self.with_money_us - self.without_us + self.rollup_us


async def written(rig: QueueRig, rounds: int) -> Written:
    """So many rounds of a thousand calls with money and as many without; then count the ledger in."""
    worker = await QueueWorker.of(rig)
    await rig.accept(2 * rounds * _BATCH * _BATCHES, repeat("default"))
    spent_s = {True: 0.0, False: 0.0}
    for number in range(2 * rounds):
        money = number % 2 == 0
        spent_s[money] += await _round(rig, worker, money=money)
    each = 1e6 / (rounds * _BATCH * _BATCHES)
    return Written(spent_s[True] * each, spent_s[False] * each, await _rollup(rig))


async def _round(rig: QueueRig, worker: QueueWorker, *, money: bool) -> float:
    """A statement for the intents of each batch, one for its outcomes and ends; CPU seconds."""
    ids = IdMaker(rig.clock)
    batches = [[(claim, ids.new()) for claim in await _claimed(worker)] for _ in range(_BATCHES)]
    before = _spent_s(rig, worker)
    for calls in batches:
        intents = await worker.record.write([_intent(claim, call_id, money=money) for claim, call_id in calls])
        ends = await worker.record.complete([_ending(claim, call_id, money=money) for claim, call_id in calls])
        refused = [verdict for verdict in (*intents, *ends) if verdict is not True]
        if refused:
            raise RuntimeError(f"a write was refused: {refused[0]}")
    return _spent_s(rig, worker) - before


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
