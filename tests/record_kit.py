"""Makes and looks at states of the record, for tests on the real PostgreSQL."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from tollway.domain.clock import AnchoredClock
from tollway.domain.ids import IdMaker
from tollway.record.accept import Accepts, NewRun
from tollway.record.claims import Claim, Claimed, Claims
from tollway.record.database import Database
from tollway.record.journal import Ending, Fact, RunWrite
from tollway.record.processes import register_process
from tollway.record.server import EmbeddedPostgres

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
