"""Bulk cancel on the real record: what was counted and nothing else, beside claims and journals, without deadlocks."""

import asyncio
from uuid import UUID

import asyncpg

from record_kit import accept_all, claim, clock, fact, ids, new_claims, new_run, session, write_of
from tollway.record.accept import run_columns
from tollway.record.cancel import cancel_runs
from tollway.record.claims import Claims
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.live import count_live, list_live
from tollway.record.reads import RunFilter
from tollway.record.sql import query
from tollway.record.writes import Intent, Leaving, Reservation

RUNS = 1200


async def claim_all(database: Database, batch: int, held: set[UUID]) -> None:
    """Claims until nothing is left to claim, writing a journal for all it holds after each claim."""
    claims, worker = await new_claims(database)
    record = JournalRecord(database, worker)
    while found := (await claim(claims, batch)).claims:
        held |= {one.run_id for one in found}
        writes = [write_of(one, fact("progress", "{}")) for one in reversed(found)]
        assert await record.write(writes) == [True] * len(found)


async def test_a_bulk_cancel_deadlocks_with_nobody(database: Database, admin: asyncpg.Connection) -> None:
    """Beside claims and journal writes each run is cancelled or asked to end, and nobody loses a lock or a deadlock."""
    tenants = [f"t{n}" for n in range(6)]
    await admin.execute("insert into tenant (id, name) select t, t from unnest($1::text[]) t", tenants)
    runs = [new_run(tenant=tenants[n % 6], priority_s=float(n * 7 % 11)) for n in range(RUNS)]
    await accept_all(database, runs)
    held: set[UUID] = set()
    claimers = [asyncio.create_task(claim_all(database, batch, held)) for batch in (7, 23)]
    wanted = [run.id for run in runs]
    done = [await cancel_runs(database, wanted[at : at + 100], "k") for at in range(0, RUNS, 100)]
    await asyncio.gather(*claimers)
    ended = {run_id for one in done for run_id in one.ended}
    asked = {run_id for one in done for run_id in one.asked}
    assert not ended & asked
    assert ended | asked == set(wanted)
    assert asked <= held
    assert await admin.fetchval("select count(*) from queue where cancelled_by = 'key:k'") == len(asked)
    assert await admin.fetchval("select count(*) from run where state = 'cancelled'") == len(ended)


async def test_a_locked_run_is_not_waited_for(database: Database, database_url: str, admin: asyncpg.Connection) -> None:
    """While somebody holds a run's row the others are cancelled, and the answer names the one that is left."""
    runs = [new_run() for _ in range(3)]
    await accept_all(database, runs)
    async with session(database_url) as other:
        async with other.transaction():
            await other.execute("select from queue where run_id = $1 for update", runs[1].id)
            done = await cancel_runs(database, [run.id for run in runs], "k")
            assert done.ended == {runs[0].id, runs[2].id}
            assert (done.asked, done.left) == (frozenset(), {runs[1].id})
        assert (await cancel_runs(database, [run.id for run in runs], "k")).ended == {runs[1].id}


async def test_a_steps_intent_of_a_cancelled_run_ends_as_unknown(database: Database, admin: asyncpg.Connection) -> None:
    """Among many runs cancelled, those with a step cut in the middle are found."""
    await accept_all(database, [new_run() for _ in range(3)])
    claims, worker = await new_claims(database)
    held = (await claim(claims)).claims
    record = JournalRecord(database, worker)
    write = write_of(held[0], told := fact("step.intent", '{"n":1}'))
    write.new_steps = 1
    write.intents.append(Intent(1, "1", "llm", "ask", 1, ids.new(), Reservation(77, "r"), told.at))
    assert await record.write([write]) == [True]
    leaving = [
        Leaving(one.run_id, one.fence, one.next_seq + (one is held[0]), None, 0, "handed_back", None) for one in held
    ]
    assert await record.requeue(leaving) == [True] * 3
    assert len((await cancel_runs(database, [one.run_id for one in held], "k")).ended) == 3
    assert [tuple(row) for row in await admin.fetch("select run_id, state from step")] == [(held[0].run_id, "unknown")]
    assert await admin.fetchval("select nano from ledger where kind = 'unknown'") == 77


async def test_a_snapshot_knows_what_was_counted(database: Database, database_url: str) -> None:
    """What is accepted after the count is left out, even by a transaction that had begun before it."""
    wanted = RunFilter(lane="standard", metadata=(("a", "b"),))
    runs = [new_run(metadata='{"a":"b"}') for _ in range(3)]
    await accept_all(database, [*runs, new_run(), new_run(lane="batch", metadata='{"a":"b"}')])
    slow = new_run(metadata='{"a":"b"}')
    async with session(database_url) as other:
        async with other.transaction():
            await other.fetch(query("accept_runs"), *run_columns([slow]))
            count, view = await count_live(database, wanted)
        assert count == 3
    await accept_all(database, [new_run(metadata='{"a":"b"}')])
    assert await list_live(database, wanted, view, 10) == [run.id for run in runs]
    assert len(await list_live(database, wanted, None, 10)) == 5
    assert (await count_live(database, RunFilter(lane="standard")))[0] == 6
    assert (await count_live(database, RunFilter(created_before=clock.now() - 60)))[0] == 0
    await cancel_runs(database, [runs[0].id], "k")
    assert await list_live(database, wanted, view, 10) == [run.id for run in runs[1:]]


async def test_a_snapshot_by_state_leaves_out_what_has_moved(database: Database, admin: asyncpg.Connection) -> None:
    """Of the queued runs counted, one that ran meanwhile and one that came back from a worker are not meant."""
    runs = [new_run(priority_s=float(9 - n)) for n in range(4)]
    await accept_all(database, runs)
    claims, worker = await new_claims(database)
    held = (await claim(claims, 2)).claims
    assert [one.run_id for one in held] == [runs[0].id, runs[1].id]
    count, view = await count_live(database, RunFilter(state="queued"))
    assert count == 2
    back = Leaving(held[0].run_id, held[0].fence, held[0].next_seq, None, 0, "handed_back", None)
    assert await JournalRecord(database, worker).requeue([back]) == [True]
    await claim_first(claims, admin, runs[2].id)
    assert await list_live(database, RunFilter(state="queued"), view, 10) == [runs[3].id]
    queued = set(await list_live(database, RunFilter(state="queued"), None, 10))
    assert queued == {runs[0].id, runs[3].id}


async def claim_first(claims: Claims, admin: asyncpg.Connection, run_id: UUID) -> None:
    """Claim this very run."""
    await admin.execute("update queue set place = 0 where run_id = $1", run_id)
    await admin.execute("update flow set head = 0")
    assert [one.run_id for one in (await claim(claims, 1)).claims] == [run_id]


async def test_a_row_is_seen_as_postgresql_sees_it(admin: asyncpg.Connection) -> None:
    """`was_seen` widens a row's 32-bit writer to the number next to the view, over the turn of an epoch too."""
    turn = 1 << 32
    for top in (1000, turn + 5, 3 * turn + (1 << 31), 7 * turn - 3):
        view = f"{top - 3}:{top}:{top - 2}"
        for writer, seen in (
            (top - 900, True),
            (top - 4, True),
            (top - 2, False),
            (top - 1, True),
            (top, False),
            (top + 9, False),
        ):
            found = await admin.fetchval(
                "select was_seen($1::text::xid, $2::text::pg_snapshot)", str(writer % turn), view
            )
            assert found is seen, (top, writer)
