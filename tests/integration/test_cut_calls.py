"""Whatever happens beside a write, and however a run ends: no outcome is dropped, and no call stays undecided."""

import asyncio
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from record_kit import (
    claim,
    claim_one,
    clock,
    event_types,
    fact,
    ids,
    new_claims,
    session,
    success,
    until_blocked,
    write_of,
)
from tollway.domain.fold import RunFold, fold
from tollway.domain.llm import Usage
from tollway.domain.words import ActorKind, RunState
from tollway.record.cancel import end_queued_runs
from tollway.record.claims import Claim
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.reads import RunReads
from tollway.record.sql import query
from tollway.record.upkeep import Upkeep
from tollway.record.writes import Entry, Intent, Leaving, Reservation, StepOutcome
from tollway.runtime.journal import RunJournal
from tollway.runtime.journal_writer import JournalWriter
from tollway.telemetry.metrics import Metrics

USED = Usage(input_tokens=11, output_tokens=5)


async def intend(record: JournalRecord, held: Claim, call_id: UUID, n: int = 1) -> Claim:
    """Write the intent of an llm step; the claim as it then stands."""
    told = fact("step.intent", f'{{"n":{n},"kind":"llm","call_id":"{call_id}"}}')
    write = write_of(held, told)
    write.intents.append(Intent(n, str(n), "llm", "answer", held.attempt, call_id, Reservation(900, "fast"), told.at))
    write.new_steps = 1
    assert await record.write([write]) == [True]
    return replace(held, next_seq=write.next_seq)


async def while_asked_to_cancel(
    url: str, admin: asyncpg.Connection, run_id: UUID, write: Coroutine[Any, Any, list[bool | Exception]]
) -> list[bool | Exception]:
    """Make a write that finds its run locked by a request to cancel it, which then commits."""
    async with session(url) as other, other.transaction():
        await other.fetch(query("request_cancel"), [run_id], ["key:k"])
        writing = asyncio.create_task(write)
        await until_blocked(admin)
    return await writing


async def told_of(database: Database, run_id: UUID) -> RunFold:
    """The fold of the run's events."""
    return fold(await RunReads(database).events(run_id, 0))


async def test_an_end_that_waits_for_a_cancel_request_is_written_whole(
    database: Database, database_url: str, admin: asyncpg.Connection
) -> None:
    """P1, P2: a completion that finds its run locked by a request to cancel ends it, with the step's outcome."""
    held, worker = await claim_one(database)
    record = JournalRecord(database, worker)
    ending = success(await intend(record, held, ids.new()))
    ending.write.outcomes.append(StepOutcome(1, "done", ending.ended_at, b'"yes"', None, "fast", 1, USED, 640))
    verdicts = await while_asked_to_cancel(database_url, admin, held.run_id, record.complete([ending]))
    assert verdicts == [True]
    row = await admin.fetchrow("select state, cost_nano, ended_at from run where id = $1", held.run_id)
    assert row is not None
    assert tuple(row) == ("succeeded", 640, ending.ended_at)
    step = await admin.fetchrow("select state, result from step where run_id = $1", held.run_id)
    assert step is not None
    assert tuple(step) == ("done", b'"yes"')


async def test_an_outcome_that_waits_for_a_cancel_request_is_written_whole(
    database: Database, database_url: str, admin: asyncpg.Connection
) -> None:
    """P2: an outcome whose run is being asked to end stands in the journal, as its event and its money do."""
    held, worker = await claim_one(database)
    record = JournalRecord(database, worker)
    call_id = ids.new()
    write = write_of(await intend(record, held, call_id), told := fact("step.done", '{"n":1}'))
    write.outcomes.append(StepOutcome(1, "done", told.at, b'"yes"', None, "fast", 1, USED, 640))
    write.entries.append(
        Entry(
            call_id,
            "settle",
            1,
            "answer",
            Reservation(900, "fast", model="gpt", price_version="v1"),
            640,
            USED,
            told.at,
        )
    )
    assert await while_asked_to_cancel(database_url, admin, held.run_id, record.write([write])) == [True]
    assert await admin.fetchval("select state from step where run_id = $1", held.run_id) == "done"
    assert await admin.fetchval("select nano from ledger where run_id = $1", held.run_id) == 640


async def test_a_return_that_waits_for_a_cancel_request_does_not_wait_for_its_time(
    database: Database, database_url: str, admin: asyncpg.Connection
) -> None:
    """P1: a run given back for later, while somebody asks to cancel it, is runnable at once, so that it ends soon."""
    held, worker = await claim_one(database)
    back = Leaving(held.run_id, held.fence, held.next_seq, 3600.0, 1, "retried", '{"reason":"error"}')
    requeue = JournalRecord(database, worker).requeue([back])
    assert await while_asked_to_cancel(database_url, admin, held.run_id, requeue) == [True]
    row = await admin.fetchrow("select state, gate, errors, cancelled_by from queue where run_id = $1", held.run_id)
    assert row is not None
    assert tuple(row) == (0, None, 1, "key:k")
    assert await event_types(admin, held.run_id) == ["accepted", "claimed", "retried"]
    assert [one.run_id for one in (await claim((await new_claims(database))[0])).claims] == [held.run_id]


async def test_a_run_asked_to_cancel_does_not_park(
    database: Database, database_url: str, admin: asyncpg.Connection
) -> None:
    """P10: a run that would park while somebody asks to cancel it is queued, and its events say no other thing."""
    held, worker = await claim_one(database)
    back = Leaving(held.run_id, held.fence, held.next_seq, 3600.0, 0, "parked", None)
    requeue = JournalRecord(database, worker).requeue([back])
    assert await while_asked_to_cancel(database_url, admin, held.run_id, requeue) == [True]
    row = await admin.fetchrow("select state, gate, cancelled_by from queue where run_id = $1", held.run_id)
    assert row is not None
    assert tuple(row) == (0, None, "key:k")
    assert (await told_of(database, held.run_id)).state == RunState.QUEUED


async def test_a_run_that_ends_in_the_queue_leaves_its_cut_call_unknown(
    database: Database, admin: asyncpg.Connection
) -> None:
    """P2: the call of a lost worker stands in the ledger at its reservation when its run is cancelled."""
    held, worker = await claim_one(database)
    call_id = ids.new()
    await intend(JournalRecord(database, worker), held, call_id)
    await Upkeep(database, worker + 1).reap(worker)
    ended = await end_queued_runs(database, [held.run_id], RunState.CANCELLED, (ActorKind.KEY, "k"))
    assert ended.ids == [held.run_id]
    types = await event_types(admin, held.run_id)
    assert types == ["accepted", "claimed", "step.intent", "retried", "step.unknown", "cancelled"]
    assert await admin.fetchval("select state from step where run_id = $1", held.run_id) == "unknown"
    money = await admin.fetchrow("select call_id, kind, nano, estimated from ledger where run_id = $1", held.run_id)
    assert money is not None
    assert tuple(money) == (call_id, "unknown", 900, True)
    row = await admin.fetchrow("select state, attempt, ended_at from run where id = $1", held.run_id)
    folded = await told_of(database, held.run_id)
    assert row is not None
    assert tuple(row) == (folded.state, folded.attempt, folded.ended_at)


async def test_a_run_that_ends_without_asking_again_leaves_its_cut_call_unknown(
    database: Database, admin: asyncpg.Connection
) -> None:
    """P2: a later attempt that ends its run without the step its forerunner was cut in decides that step, too."""
    held, worker = await claim_one(database)
    call_id = ids.new()
    await intend(JournalRecord(database, worker), held, call_id)
    await Upkeep(database, worker + 1).reap(worker)
    claims, worker = await new_claims(database)
    again = (await claim(claims)).claims[0]
    record = JournalRecord(database, worker)
    recorded = (await record.steps([again.run_id]))[again.run_id]
    writer = JournalWriter(record, lambda _: None, Metrics())
    journal = RunJournal(again, recorded, writer, clock, str(worker))
    ending = {"state": "failed", "output": None, "error_code": "rejected", "error_message": "no", "fingerprint": None}
    await journal.end(journal.fact("failed", '{"code":"rejected","message":"no"}'), ending)
    types = await event_types(admin, held.run_id)
    assert types == ["accepted", "claimed", "step.intent", "retried", "claimed", "step.unknown", "failed"]
    assert await admin.fetchval("select state from step where run_id = $1", held.run_id) == "unknown"
    assert await admin.fetchval("select nano from ledger where call_id = $1 and kind = 'unknown'", call_id) == 900
