"""Makes and looks at states of the record, for tests on the real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from tollway.domain.clock import AnchoredClock
from tollway.domain.ids import IdMaker
from tollway.domain.words import ActorKind, RunState
from tollway.record.accept import Accepts, NewRun
from tollway.record.cancel import end_queued_runs
from tollway.record.claims import Claim, Claimed, Claims, LineCosts
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.processes import register_process
from tollway.record.reads import RunFilter, RunReads
from tollway.record.server import EmbeddedPostgres
from tollway.record.upkeep import Upkeep
from tollway.record.writes import NOTHING_RESERVED, Ending, Fact, Intent, Leaving, RunWrite

RECORD_TABLES = ("run", "queue", "flow", "step", "event", "ledger", "dead_letter", "webhook_delivery", "idempotency")

clock = AnchoredClock()
ids = IdMaker(clock)


@asynccontextmanager
async def session(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection, to arrange and to look."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def make_database(server: EmbeddedPostgres, name: str, template: str = "template1") -> None:
    """A new database of the record's owner, a copy of `template`, to which nobody may be connected."""
    async with session(server.url_of("postgres", "postgres")) as admin:
        await admin.execute(f"create database {name} template {template} owner tollway")


async def drop_database(server: EmbeddedPostgres, name: str) -> None:
    """Drop a database, whoever is connected; one that is not there is no error."""
    async with session(server.url_of("postgres", "postgres")) as admin:
        await admin.execute(f"drop database if exists {name} with (force)")


def new_run(**given: Any) -> NewRun:
    """A run as a plain submit makes it, but for what is given."""
    whole: dict[str, Any] = {
        "id": ids.new(),
        "tenant": "default",
        "key_id": "key-1",
        "agent": "triage",
        "version": "1",
        "lane": "standard",
        "input": b'{"text":"hello"}',
        "metadata": None,
        "created_at": clock.now(),
        "priority_s": 0.0,
        "delay_s": 0.0,
        "deadline_at": None,
        "ttl_s": None,
        "max_attempts": 3,
        "budget_nano": None,
        "concurrency_key": None,
        "concurrency_policy": None,
        "webhook_url": None,
        "webhook_secret_env": None,
        "replay_of": None,
        "predicted_start_at": clock.now(),
        "est_nano": 1000,
        "idempotency_key": None,
        "body_hash": None,
    }
    return NewRun(**{**whole, **given})


async def accept_all(database: Database, runs: Sequence[NewRun]) -> None:
    """Accept runs; raises what any of them raises."""
    accepts = Accepts(database)
    for run in [accepts.accept(run) for run in runs]:
        await run


async def new_claims(database: Database) -> tuple[Claims, int]:
    """The claims of a newly registered worker, and its id."""
    worker = await register_process(database, "worker", 12.0)
    return Claims(database, database, worker), worker


async def claim(claims: Claims, wanted: int = 100, lane: str = "standard", agent: str = "triage") -> Claimed:
    """One claim of a lane, from the very least virtual time on."""
    return await claims.claim(lane, {agent: 0.0}, wanted)


async def claim_one(database: Database, **given: Any) -> tuple[Claim, int]:
    """Accept a run and claim it with a new worker: the claim and the worker."""
    await accept_all(database, [new_run(**given)])
    claims, worker = await new_claims(database)
    return (await claim(claims)).claims[0], worker


def write_of(held: Claim, *facts: Fact) -> RunWrite:
    """An empty write under a claim, with these facts."""
    return RunWrite(held.run_id, held.tenant, held.fence, held.next_seq, facts=list(facts))


def fact(kind: str, data: str | None = None) -> Fact:
    """A worker's fact of this moment."""
    return Fact(kind, datetime.fromtimestamp(clock.now(), UTC), "worker", "1", data)


def success(held: Claim) -> Ending:
    """A claim's plain success."""
    told = fact("succeeded")
    return Ending(write_of(held, told), "succeeded", b'"done"', None, None, told.at)


async def everything(connection: asyncpg.Connection) -> dict[str, list[Any]]:
    """Every row of the record, by table, as text: equal before and after means that nothing was written."""
    return {
        table: sorted(row[0] for row in await connection.fetch(f"select t::text from {table} t"))
        for table in RECORD_TABLES
    }


async def event_types(connection: asyncpg.Connection, run_id: UUID) -> list[str]:
    """A run's history; its numbers must have no gaps."""
    rows = await connection.fetch("select seq, type from event where run_id = $1 order by seq", run_id)
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["type"] for row in rows]


async def whole_cycle(database: Database) -> list[UUID]:
    """Everything that processes do with runs, through one `Database`; returns the runs that ended.

    One succeeds with a journaled step, one is retried, one loses its worker and succeeds, one is cancelled.
    """
    runs = [
        new_run(idempotency_key=f"cycle-{n}", body_hash=b"b", webhook_url="https://example.test/") for n in range(4)
    ]
    await accept_all(database, runs)
    claims, worker = await new_claims(database)
    held = (await claim(claims, 3)).claims
    record = JournalRecord(database, worker)
    intent = write_of(held[0], told := fact("step.intent", '{"n":1}'))
    intent.new_steps = 1
    intent.intents.append(Intent(1, "1", "task", "look", 1, ids.new(), NOTHING_RESERVED, told.at))
    assert await record.write([intent]) == [True]
    assert len(await record.steps([held[0].run_id])) == 1
    held[0] = replace(held[0], next_seq=intent.next_seq)
    back = Leaving(held[1].run_id, held[1].fence, held[1].next_seq, 0.0, 1, "retried", None)
    assert await record.complete([success(held[0])]) == [True]
    assert await record.requeue([back]) == [True]
    keeper = Upkeep(database, await register_process(database, "keeper", 12.0))
    assert await keeper.elected(10.0)
    assert await keeper.open_gates() == ["standard"]
    assert len(await keeper.reap(worker)) == 1
    assert (await end_queued_runs(database, [runs[3].id], RunState.CANCELLED, (ActorKind.KEY, "k"))).ids == [runs[3].id]
    claims, worker = await new_claims(database)
    again = await claim(claims, 10)
    assert await JournalRecord(database, worker).complete([success(one) for one in again.claims]) == [True, True]
    empty = await claim(claims)
    await claims.mark_idle("standard", empty.empty)
    await claims.raise_floor("standard", {"triage": 1.0})
    await claims.true_up({("standard", "triage", "default"): LineCosts(5.0, 1, 1005.0)})
    await claims.enter_classes(["standard", "batch"], ["triage", "newer"])
    assert await claims.turn_capped(["default"]) == await keeper.open_full() == []
    assert (await keeper.due()).opens == {}
    assert (await keeper.expire()).ids == (await keeper.bury_poison()).ids == []
    await keeper.make_partitions()
    await keeper.drop_partitions({"run": 30, "step": 30, "event": 30, "ledger": 0})
    await keeper.forget_old()
    await keeper.resign()
    found = await RunReads(database).list_runs(RunFilter(), None, 10)
    return [row[0] for row in found if row[10] is not None]


async def until_blocked(admin: asyncpg.Connection) -> None:
    """Returns once some session of this database waits for a lock."""
    text = (
        "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())"
    )
    async with asyncio.timeout(20):
        while not await admin.fetchval(text):
            await asyncio.sleep(0.01)


async def pay(
    connection: asyncpg.Connection, nano: int, tenant: str = "acme", kind: str = "settle", at: float | None = None
) -> None:
    """An entry of the ledger, of a call over the wire."""
    await connection.execute(
        "insert into ledger (call_id, kind, tenant, key_id, route, nano, at)"
        " values ($1, $2, $3, 'k', 'sim', $4, to_timestamp($5))",
        ids.new(),
        kind,
        tenant,
        nano,
        clock.now() if at is None else at,
    )


async def budget_with_period(
    connection: asyncpg.Connection, hard_nano: int | None, soft_nano: int | None = None
) -> int:
    """A budget of the default tenant by day, its present period open; returns the period's account."""
    budget = await connection.fetchval(
        "insert into budget (tenant, period, hard_nano, soft_nano, since_version)"
        " values ('default', 'day', $1, $2, 1) returning id",
        hard_nano,
        soft_nano,
    )
    return int(
        await connection.fetchval(
            "insert into budget_account (budget, begins, ends, opened)"
            " values ($1, date_trunc('day', now()), date_trunc('day', now()) + interval '1 day', true) returning id",
            budget,
        )
    )
