"""What runs move in budgets: reserved with the intent, spent with the outcome, in the journal's own writes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from record_kit import claim, claim_one, clock, ids, new_claims
from runtime_kit import until
from tollway.domain.budgets import Budget, Period
from tollway.domain.errors import Fenced
from tollway.domain.llm import Usage
from tollway.record.budget_leases import BudgetLeases
from tollway.record.budgets import budgets_by_tenant, put_budgets
from tollway.record.claims import Claim
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.upkeep import Upkeep
from tollway.record.writes import Entry, Reservation, StepOutcome
from tollway.runtime.journal import RunJournal
from tollway.runtime.journal_steps import Step
from tollway.runtime.journal_writer import JournalWriter
from tollway.spend.guard import BudgetGuard
from tollway.telemetry.metrics import Metrics

BUDGET = Budget(0, "default", Period.TOTAL, hard_nano=10_000)
RESERVED = Reservation(900, "fast", "fast", "fast", "m", "v")


class Desk:
    """A worker with a journal and a guard."""

    def __init__(self, database: Database, worker: int) -> None:
        self.guard = BudgetGuard(BudgetLeases(database), clock)
        self.worker = worker
        self.writer = JournalWriter(JournalRecord(database, worker), lambda _: None, Metrics(), self.guard)

    def journal(self, held: Claim, recorded: Any = ()) -> RunJournal:
        """The journal of a claim."""
        return RunJournal(held, recorded, self.writer, clock, str(self.worker))

    async def intend(self, journal: RunJournal, path: str = "1") -> tuple[int, UUID]:
        """Reserve, and begin a call."""
        hold, call_id = await journal.holds.reserve(RESERVED.nano), ids.new()
        n, durable = journal.intend(Step(path, "llm", "answer", None), call_id, RESERVED, hold)
        await journal.begin(n, durable)
        return n, call_id

    @property
    def kept(self) -> tuple[int, int]:
        """What memory has as spent and as reserved."""
        (slice_,) = self.guard._leasing._slices.values()
        return slice_.spent, slice_.reserved


def settle(journal: RunJournal, n: int, call_id: UUID, nano: int) -> None:
    """The call is over, and cost this."""
    at = journal.moment()
    outcome = StepOutcome(n, "done", at, b"1", None, "fast", 1, Usage(), nano)
    journal.settle(outcome, [Entry(call_id, "settle", n, "answer", RESERVED, nano, Usage(), at)])


@pytest.fixture
async def begun(database: Database, admin: asyncpg.Connection) -> AsyncIterator[tuple[Desk, Claim]]:
    """A claimed run whose tenant has a budget, in force for long, and its worker."""
    await put_budgets(database, "default", [BUDGET, replace(BUDGET, agent="other")])
    await admin.execute("update budget set created_at = '-infinity'")
    held, worker = await claim_one(database)
    desk = Desk(database, worker)
    budgets = budgets_by_tenant(await database.rows("list_budgets"))
    desk.guard.start(lambda: worker, lambda: budgets, desk.writer.settled)
    desk.guard.changed(1)
    yield desk, held
    await desk.guard.stop()


async def moved(admin: asyncpg.Connection) -> tuple[int, int]:
    """What processes spent and have reserved by the record, slices and deltas together."""
    slices = "select coalesce(sum(spent_nano), 0), coalesce(sum(reserved_nano), 0) from "
    lent, late = await admin.fetchrow(slices + "budget_slice"), await admin.fetchrow(slices + "budget_delta")
    return int(lent[0] + late[0]), int(lent[1] + late[1])


async def test_an_intent_reserves_and_an_outcome_spends(begun: tuple[Desk, Claim], admin: asyncpg.Connection) -> None:
    """P4: the slice on record moves in the same writes as the step; what a call left is free once that is durable."""
    desk, held = begun
    journal = desk.journal(held)
    n, call_id = await desk.intend(journal)
    assert await moved(admin) == (0, 900) == desk.kept
    settle(journal, n, call_id, 300)
    assert desk.kept == (0, 900)
    await until(lambda: desk.kept == (300, 0))
    assert await moved(admin) == (300, 0)
    n, call_id = await desk.intend(journal, "2")
    settle(journal, n, call_id, 1000)
    await journal.end(journal.fact("succeeded", None), _success())
    assert await moved(admin) == (1300, 0) == desk.kept


async def test_a_run_that_ends_leaves_nothing_reserved(begun: tuple[Desk, Claim], admin: asyncpg.Connection) -> None:
    """A call cut off by the run's end counts at its worst case, one that never began is released."""
    desk, held = begun
    journal = desk.journal(held)
    await desk.intend(journal)
    hold = await journal.holds.reserve(900)
    journal.intend(Step("2", "llm", "answer", None), ids.new(), RESERVED, hold)
    await journal.end(journal.fact("cancelled", None), {**_success(), "state": "cancelled", "output": None})
    assert await moved(admin) == (900, 0) == desk.kept
    kinds = await admin.fetch("select kind, nano from ledger order by nano")
    assert [tuple(row) for row in kinds] == [("release", 0), ("unknown", 900)]


async def test_a_run_handed_back_has_spent_what_it_had_begun(
    begun: tuple[Desk, Claim], database: Database, admin: asyncpg.Connection
) -> None:
    """Its intent stays, its reservation counts as spent; the next claim's `unknown` entry moves nothing more."""
    desk, held = begun
    journal = desk.journal(held)
    await desk.intend(journal)
    await journal.leave("handed_back", None, None, errors=0)
    journal.holds.let_go()
    assert desk.kept == (900, 0)

    async def told() -> bool:
        return await moved(admin) == (900, 0)

    async with asyncio.timeout(20):
        while not await told():
            await asyncio.sleep(0.02)
    claims, worker = await new_claims(database)
    (again,) = (await claim(claims)).claims
    record = JournalRecord(database, worker)
    other = Desk(database, worker)
    recorded = await record.steps([held.run_id])
    journal = other.journal(again, recorded[held.run_id])
    step = Step("1", "llm", "answer", recorded[held.run_id][0])
    _, durable = journal.intend(step, ids.new(), Reservation(0))
    await durable
    assert await admin.fetchval("select sum(nano) from ledger where kind = 'unknown'") == 900
    assert await moved(admin) == (900, 0)


async def test_a_fenced_write_moves_nothing(
    begun: tuple[Desk, Claim], database: Database, admin: asyncpg.Connection
) -> None:
    """P3: a worker taken for dead adds nothing to its slice, which the keeper closed at its worst; nor do repeats."""
    desk, held = begun
    journal = desk.journal(held)
    n, call_id = await desk.intend(journal)
    keeper = Upkeep(database, 1)
    await keeper.reap(desk.worker)
    await keeper.close_budgets(desk.worker)
    assert await admin.fetchval("select sum(spent_nano) from budget_account") == 900
    settle(journal, n, call_id, 300)
    await until(lambda: journal.fenced is not None)
    with pytest.raises(Fenced):
        journal.intend(Step("2", "llm", "answer", None), ids.new(), RESERVED)
    assert await moved(admin) == (0, 0)
    assert await keeper.mend_budgets() == 0
    assert [tuple(row) for row in await admin.fetch("select spent_nano, granted_nano from budget_account")] == [
        (900, 0)
    ]


def _success() -> dict[str, Any]:
    return {"state": "succeeded", "output": b"1", "error_code": None, "error_message": None, "fingerprint": None}


async def test_a_call_given_up_before_its_intent_was_written_is_asked_again(
    begun: tuple[Desk, Claim], admin: asyncpg.Connection
) -> None:
    """As by a client that hangs up during an outage and comes again: two intents of a step never share a write, which
    would be refused with all that others write; the call that never began is released (P10)."""
    desk, held = begun
    journal = desk.journal(held)
    step, first, second = Step("1", "llm", "answer", None), ids.new(), ids.new()
    one, other = await journal.holds.reserve(RESERVED.nano), await journal.holds.reserve(RESERVED.nano)
    n, _ = journal.intend(step, first, RESERVED, one)
    await journal.make_room(n)
    again = journal.intend_again(n, step, second, RESERVED, other)
    await journal.begin(n, again)
    settle(journal, n, second, 300)
    await journal.end(journal.fact("succeeded", None), _success())
    entries = await admin.fetch("select call_id, kind, nano from ledger order by call_id")
    assert [tuple(row) for row in entries] == [(first, "release", 0), (second, "settle", 300)]
    assert await moved(admin) == (300, 0) == desk.kept


async def beginning(journal: RunJournal) -> tuple[UUID, "asyncio.Future[bool]", "asyncio.Task[None]"]:
    """A call whose money is held: its id, its intent on the way to the record, and its caller, who waits for that."""
    hold, call_id = await journal.holds.reserve(RESERVED.nano), ids.new()
    n, durable = journal.intend(Step("1", "llm", "answer", None), call_id, RESERVED, hold)
    return call_id, durable, asyncio.create_task(journal.begin(n, durable))


async def test_a_call_cancelled_before_its_deed_holds_nothing_for_the_rest_of_its_run(
    begun: tuple[Desk, Claim], admin: asyncpg.Connection
) -> None:
    """P4: what surely cost nothing is released once its intent is on record, while its run goes on for hours."""
    desk, held = begun
    journal = desk.journal(held)
    call_id, _, waiting = await beginning(journal)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await until(lambda: desk.kept == (0, 0))
    assert await moved(admin) == (0, 0)
    step = await admin.fetchrow("select state, error from step")
    assert tuple(step) == ("failed", "stopped before it began")
    await journal.end(journal.fact("succeeded", None), _success())
    assert [tuple(row) for row in await admin.fetch("select call_id, kind, nano from ledger")] == [
        (call_id, "release", 0)
    ]


async def test_a_call_cancelled_just_as_its_intent_was_written_holds_nothing(
    begun: tuple[Desk, Claim], admin: asyncpg.Connection
) -> None:
    """P4: it is released at once, for no write that tells of its intent is still to come."""
    desk, held = begun
    journal = desk.journal(held)
    _, durable, waiting = await beginning(journal)
    durable.add_done_callback(lambda _: waiting.cancel())
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)
    await until(lambda: desk.kept == (0, 0))
    assert await moved(admin) == (0, 0)
    await journal.end(journal.fact("succeeded", None), _success())
    assert [tuple(row) for row in await admin.fetch("select kind, nano from ledger")] == [("release", 0)]


async def test_a_step_cancelled_before_its_deed_is_called_again_after_its_release(
    begun: tuple[Desk, Claim], admin: asyncpg.Connection
) -> None:
    """Its release, its next intent and the outcome each have a write of their own, whatever comes in between."""
    desk, held = begun
    journal = desk.journal(held)
    step, first, second = Step("1", "llm", "answer", None), ids.new(), ids.new()
    one = await journal.holds.reserve(RESERVED.nano)
    n, durable = journal.intend(step, first, RESERVED, one)
    waiting = asyncio.create_task(journal.begin(n, durable))
    await until(lambda: journal._flying is not None)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await journal.make_room(n)
    other = await journal.holds.reserve(RESERVED.nano)
    await desk.writer.settled()
    again = journal.intend_again(n, step, second, RESERVED, other)
    await journal.begin(n, again)
    settle(journal, n, second, 300)
    await journal.end(journal.fact("succeeded", None), _success())
    entries = await admin.fetch("select call_id, kind, nano from ledger order by call_id")
    assert [tuple(row) for row in entries] == [(first, "release", 0), (second, "settle", 300)]
    assert await moved(admin) == (300, 0) == desk.kept
    assert await admin.fetchval("select state from step") == "done"
