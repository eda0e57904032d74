"""A step whose intent stands and whose deed never began: it cost nothing, and nobody need wonder if it was done."""

import asyncpg
import pytest

from record_kit import claim, claim_one, clock, event_types, ids, new_claims
from tollway.domain.errors import Fenced
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.writes import Reservation
from tollway.runtime.journal import RunJournal
from tollway.runtime.journal_steps import Step
from tollway.runtime.journal_writer import JournalWriter
from tollway.telemetry.metrics import Metrics


def journal_of(database: Database, held: object, worker: int) -> RunJournal:
    """The journal of a claim."""
    writer = JournalWriter(JournalRecord(database, worker), lambda _: None, Metrics())
    return RunJournal(held, (), writer, clock, str(worker))  # type: ignore[arg-type]


@pytest.mark.parametrize("durable", [True, False])
async def test_an_end_releases_what_never_began(database: Database, admin: asyncpg.Connection, durable: bool) -> None:
    """P2: a call that was intended, on disk or not yet, when its run was cancelled is failed and its money released."""
    held, worker = await claim_one(database)
    journal = journal_of(database, held, worker)
    _, written = journal.intend(Step("1", "llm", "answer", None), ids.new(), Reservation(900, "fast"))
    if durable:
        await written
    await journal.end(journal.fact("cancelled", None), _cancelled())
    types = await event_types(admin, held.run_id)
    assert types == ["accepted", "claimed", "step.intent", "step.failed", "cancelled"]
    assert await admin.fetchval("select state from step where run_id = $1", held.run_id) == "failed"
    money = await admin.fetch("select kind, nano from ledger where run_id = $1", held.run_id)
    assert [tuple(row) for row in money] == [("release", 0)]


async def test_an_end_releases_the_declared_cost_of_a_task(database: Database, admin: asyncpg.Connection) -> None:
    """P2: a task that declares a cost and never began is released as a call is; one without has no entry."""
    held, worker = await claim_one(database)
    journal = journal_of(database, held, worker)
    journal.intend(Step("1", "task", "paid", None), ids.new(), Reservation(900, price_version="declared"))
    journal.intend(Step("2", "task", "free", None), ids.new())
    await journal.end(journal.fact("cancelled", None), _cancelled())
    money = await admin.fetch("select step, kind, nano, price_version from ledger where run_id = $1", held.run_id)
    assert [tuple(row) for row in money] == [("paid", "release", 0, "declared")]


async def test_a_return_releases_what_never_began_and_leaves_what_did(
    database: Database, admin: asyncpg.Connection
) -> None:
    """P2: handed back, a task under way stays an intent for its policy to judge; one that never began may run again."""
    held, worker = await claim_one(database)
    journal = journal_of(database, held, worker)
    begun, written = journal.intend(Step("1", "task", "begun", None), ids.new())
    await journal.begin(begun, written)
    journal.intend(Step("2", "task", "unbegun", None), ids.new())
    await journal.leave("handed_back", None, None, 0)
    rows = await admin.fetch("select name, state from step where run_id = $1 order by n", held.run_id)
    assert [tuple(row) for row in rows] == [("begun", "intent"), ("unbegun", "failed")]
    with pytest.raises(Fenced):
        journal.tell("progress", "1")
    claims, _ = await new_claims(database)
    assert [again.run_id for again in (await claim(claims)).claims] == [held.run_id]


def _cancelled() -> dict[str, object]:
    return {"state": "cancelled", "output": None, "error_code": None, "error_message": None, "fingerprint": None}
