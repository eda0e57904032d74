"""Rows that somebody changes while a statement waits for them: PostgreSQL looks at them again, and must find them."""

import asyncio
import random
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from record_kit import accept_all, claim, clock, event_types, ids, new_claims, new_run, until_blocked
from tollway.record.cancel import cancel_runs
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.processes import register_process
from tollway.record.sql import queries
from tollway.record.upkeep import Upkeep
from tollway.record.writes import Leaving

RUNS = 60
DAY = 86_400_000 << 80
"""A day, in the bits of a run's id: each day's runs are in a partition of their own."""
ROUNDS = 6
WRITES = re.compile(
    r"^(--.*\n)*(with|select|insert|update|delete)\b(.|\n)*\b((?<!do )update|delete from|for (key )?share)\b"
)
"""What writes rows that it found, or locks them. (`on conflict do update` takes the row as it stands.)"""
LOCKED_BEFORE = {"tell_replayed", "discard_letters"}
"""These change dead letters whose runs are locked; whoever changes letters locks the runs first."""

WRONG_DEADLINES = """
select count(*) from queue q join run r on r.id = q.run_id where q.expires_at is distinct from r.deadline_at
"""
BAD = """
with held as (
    update queue q set expires_at = r.deadline_at from run r where q.run_id = any ($1::uuid[]) and r.id = q.run_id
    returning q.run_id
)
select run_id from held
"""


def prunes_where_it_looks_again(printed: str) -> bool:
    """Whether a plan prunes partitions while it runs: in a sub-plan (each `with`), or if it writes or locks itself."""
    main, _, rest = " ".join(printed.split()).partition(":partPruneInfos")
    infos, _, rest = rest.partition(":rtable")
    _, _, below = rest.partition(":subplans")
    while_running = [":exec_pruning_steps (" in info for info in infos.split("{PARTITIONPRUNEINFO")[1:]]
    where = below + (main if "{MODIFYTABLE" in main or "{LOCKROWS" in main else "")
    return any(while_running[int(n)] for n in re.findall(r":part_prune_index (\d+)", where))


async def printed_plan(connection: asyncpg.Connection, text: str) -> str:
    """The generic plan of a statement as the server prints it for itself, with loops for all joins."""
    told: list[str] = []
    connection.add_log_listener(lambda _, message: told.append(message.detail or ""))
    wanted = max((int(n) for n in re.findall(r"\$(\d+)", text)), default=0)
    async with connection.transaction():
        await connection.execute(
            "set local plan_cache_mode = force_generic_plan; set local enable_hashjoin = off; "
            "set local enable_mergejoin = off; set local debug_pretty_print = off"
        )
        await connection.execute(f"prepare it as {text.rstrip().rstrip(';')}")
        await connection.execute("set local debug_print_plan = on; set local client_min_messages = log")
        await connection.execute("explain execute it" + (f"({', '.join(['null'] * wanted)})" if wanted else ""))
        await connection.execute("set local debug_print_plan = off; deallocate it")
    async with asyncio.timeout(20):
        while not any(":planTree" in one for one in told):
            await asyncio.sleep(0)
    return next(one for one in told if ":planTree" in one)


async def test_what_looks_again_at_rows_prunes_no_partitions_while_it_runs(admin: asyncpg.Connection) -> None:
    """P2: no statement that writes or locks rows can lose them, or crash the server, by PostgreSQL 18's pruning."""
    assert prunes_where_it_looks_again(await printed_plan(admin, BAD))
    written = {name: text for name, text in queries().items() if WRITES.search(text) and name not in LOCKED_BEFORE}
    assert {"requeue_runs", "reap_worker", "end_queued_runs", "write_journal", "claim_runs"} <= set(written)
    assert [n for n, text in written.items() if prunes_where_it_looks_again(await printed_plan(admin, text))] == []


async def ask_for(database: Database, run_ids: Sequence[UUID], rng: random.Random, stop: asyncio.Event) -> None:
    """Cancel some of these runs, and others, until told to stop."""
    while not stop.is_set():
        await cancel_runs(database, rng.sample(run_ids, 12), "key-1")


async def storm(database: Database, keeper: Upkeep, rng: random.Random) -> list[UUID]:
    """Runs given back by one worker and taken back from another while they are cancelled; returns the runs."""
    deadline = datetime.fromtimestamp(int(clock.now()) + 3600, UTC)
    days = [UUID(int=ids.new().int + n % 3 * DAY) for n in range(RUNS)]
    runs = [new_run(id=run_id, deadline_at=deadline.timestamp()) for run_id in days]
    await accept_all(database, runs)
    claims, stopping = await new_claims(database)
    held = (await claim(claims, RUNS // 2)).claims
    claims, dead = await new_claims(database)
    lost = (await claim(claims, RUNS // 2)).claims
    record = JournalRecord(database, stopping)
    claimed, stop = [one.run_id for one in (*held, *lost)], asyncio.Event()
    cancels = [asyncio.create_task(ask_for(database, claimed, rng, stop)) for _ in range(4)]
    given_back = []
    for n in range(0, len(held), 6):
        back = [Leaving(one.run_id, one.fence, one.next_seq, 60.0, 1, "retried", None) for one in held[n : n + 6]]
        given_back += await record.requeue(back)
    taken_back = await keeper.reap(dead)
    stop.set()
    await asyncio.gather(*cancels)
    assert given_back == [True] * len(held)
    assert {run_id for run_id, *_ in taken_back} == {one.run_id for one in lost}
    assert await database.rows("held_by", dead) + await database.rows("held_by", stopping) == []
    return [run.id for run in runs]


async def test_what_is_cancelled_as_it_is_given_or_taken_back_is_not_lost(
    database: Database, admin: asyncpg.Connection
) -> None:
    """P2: however cancels, requeues and reaps meet at a run, each is done, deadlines stay, and the server lives."""
    rng = random.Random(4)
    keeper = Upkeep(database, await register_process(database, "keeper", 12.0))
    began = await admin.fetchval("select pg_postmaster_start_time()")
    for _ in range(ROUNDS):
        run_ids = await storm(database, keeper, rng)
        assert await admin.fetchval(WRONG_DEADLINES) == 0
        await cancel_runs(database, run_ids, "key-1")
        assert await admin.fetchval("select count(*) from run where state is distinct from 'cancelled'") == 0
        assert await admin.fetchval("select count(*) from queue") == 0
        for run_id in run_ids:
            assert set(await event_types(admin, run_id)) <= {"accepted", "claimed", "retried", "cancelled"}
    assert await admin.fetchval("select pg_postmaster_start_time()") == began


async def test_rows_marked_for_cancellation_while_a_requeue_and_a_reap_wait_for_them_are_written(
    database: Database, admin: asyncpg.Connection
) -> None:
    """P2: a requeue and a reap that waited for rows which somebody marked write all of them, with their deadlines."""
    keeper = Upkeep(database, await register_process(database, "keeper", 12.0))
    deadline = float(int(clock.now()) + 3600)
    days = [UUID(int=ids.new().int + n % 3 * DAY) for n in range(2 * RUNS)]
    await accept_all(database, [new_run(id=run_id, deadline_at=deadline) for run_id in days])
    claims, stopping = await new_claims(database)
    held = (await claim(claims, RUNS)).claims
    claims, dead = await new_claims(database)
    await claim(claims, RUNS)
    record = JournalRecord(database, stopping)
    back = [Leaving(one.run_id, one.fence, one.next_seq, 60.0, 1, "retried", None) for one in held]
    for write in (lambda: record.requeue(back), lambda: keeper.reap(dead)):
        async with database.connection() as marking:
            async with marking.transaction():
                await marking.execute("update queue set cancelled_by = 'key-1' where state = 1")
                writing = asyncio.ensure_future(write())
                await until_blocked(admin)
            done = await writing
        assert len(done) == RUNS
        assert all(done)
    moment = datetime.fromtimestamp(deadline, UTC)
    rows = await admin.fetch("select state, worker, expires_at, cancelled_by from queue")
    assert [tuple(row) for row in rows] == [(0, None, moment, "key-1")] * (2 * RUNS)
