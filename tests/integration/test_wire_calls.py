"""The money of calls over the wire: reserved before the call, one entry after it, through kills and lost answers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from governor_kit import ASK, CALLER, route
from record_kit import clock, ids
from runtime_kit import until_true
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.llm import Usage
from tollway.ingress.wire.accounts import LedgerAccount, WireLedger
from tollway.llm.calls import Plan, Served
from tollway.record import wire_calls
from tollway.record.database import Database
from tollway.record.processes import leave_process, register_process
from tollway.record.upkeep import Upkeep
from tollway.record.wire_calls import DRAIN_S, WireCall, WireCalls, WireEntry
from tollway.spend.model_price import ModelPrice, Rates

USAGE = Usage(10, 20, cached_tokens=3)


def moment() -> datetime:
    """Now."""
    return datetime.fromtimestamp(clock.now(), UTC)


def new_call(process: int, **given: Any) -> WireCall:
    """A call about to be made."""
    whole: dict[str, Any] = {
        "call_id": ids.new(),
        "process": process,
        "tenant": "default",
        "key_id": "key-1",
        "lane": "interactive",
        "tier": "fast",
        "route": "r",
        "provider": "p",
        "model": "m",
        "price_version": "v",
        "reserved_nano": 500,
        "at": moment(),
    }
    return WireCall(**{**whole, **given})


@pytest.fixture
async def calls(database: Database) -> AsyncIterator[WireCalls]:
    """The wire's writes of one process."""
    made = WireCalls(database)
    yield made
    await made.drain()


async def ledger(admin: asyncpg.Connection) -> list[tuple[str, int]]:
    """Every entry: its kind and its amount."""
    return [tuple(row) for row in await admin.fetch("select kind, nano from ledger order by call_id")]


async def reserved(admin: asyncpg.Connection) -> int:
    """How many calls are under way on record."""
    return int(await admin.fetchval("select count(*) from wire_call"))


async def test_a_call_is_reserved_and_then_charged(calls: WireCalls, admin: asyncpg.Connection) -> None:
    """Before the call its worst case is on record; after it there is one entry, of its key and tier. (P10)"""
    call = new_call(1)
    await calls.open(call)
    assert await reserved(admin) == 1
    calls.close(WireEntry(call.call_id, "settle", 123, moment(), USAGE))
    await calls.drain()
    assert await reserved(admin) == 0
    row = await admin.fetchrow("select * from ledger")
    assert row is not None
    found = {name: row[name] for name in ("kind", "nano", "tenant", "key_id", "tier", "route", "model", "run_id", "n")}
    assert found == {
        "kind": "settle",
        "nano": 123,
        "tenant": "default",
        "key_id": "key-1",
        "tier": "fast",
        "route": "r",
        "model": "m",
        "run_id": None,
        "n": None,
    }
    assert (row["input_tokens"], row["output_tokens"], row["cached_tokens"]) == (10, 20, 3)


async def test_each_end_has_its_entry(calls: WireCalls, admin: asyncpg.Connection) -> None:
    """A call that may have been billed stands at its worst case, one that surely was not at nothing."""
    cut, refused = new_call(1), new_call(1)
    await asyncio.gather(calls.open(cut), calls.open(refused))
    calls.close(WireEntry(cut.call_id, "unknown", None, moment()))
    calls.close(WireEntry(refused.call_id, "release", 0, moment()))
    await calls.drain()
    assert sorted(await ledger(admin)) == [("release", 0), ("unknown", 500)]


async def test_writes_are_safe_to_repeat(database: Database, admin: asyncpg.Connection) -> None:
    """A reservation or an entry written twice, as after a lost answer, is there once. (P10)"""
    calls, call = WireCalls(database), new_call(1)
    entry = WireEntry(call.call_id, "settle", 123, moment(), USAGE)
    for _ in range(2):
        await calls.open(call)
    for _ in range(2):
        calls.close(entry)
    await calls.drain()
    assert await ledger(admin) == [("settle", 123)]
    assert await reserved(admin) == 0


async def test_calls_of_a_killed_process_are_unknown(
    database: Database, calls: WireCalls, admin: asyncpg.Connection
) -> None:
    """What a process left under way is charged at its worst case once it is gone; what others do is left alone. (P1)"""
    killed, alive = await register_process(database, "api", 12.0), await register_process(database, "api", 12.0)
    await asyncio.gather(calls.open(new_call(killed)), calls.open(new_call(killed)), calls.open(new_call(alive)))
    upkeep = Upkeep(database, 1)
    assert await upkeep.end_lost_wire_calls() == 0
    await leave_process(database, killed)
    assert await upkeep.end_lost_wire_calls() == 2
    assert await upkeep.end_lost_wire_calls() == 0
    assert await ledger(admin) == [("unknown", 500), ("unknown", 500)]
    assert await reserved(admin) == 1


async def test_who_was_taken_for_dead_does_not_charge_again(
    database: Database, calls: WireCalls, admin: asyncpg.Connection
) -> None:
    """A process that comes back to a call already charged as unknown writes no second entry. (P3)"""
    call = new_call(await register_process(database, "api", 12.0))
    await calls.open(call)
    await leave_process(database, call.process)
    await Upkeep(database, 1).end_lost_wire_calls()
    calls.close(WireEntry(call.call_id, "settle", 123, moment(), USAGE))
    await calls.drain()
    assert await ledger(admin) == [("unknown", 500)]


async def test_entries_wait_out_an_outage(database: Database, calls: WireCalls, admin: asyncpg.Connection) -> None:
    """An entry handed in while the database is away is written when it is back. (P1)"""
    call = new_call(1)
    await calls.open(call)
    await database.stop()
    calls.close(WireEntry(call.call_id, "settle", 123, moment(), USAGE))
    with pytest.raises(DatabaseUnavailable):
        await database.rows("list_beats")
    await database.start()
    await until_true(lambda: ledger(admin))
    assert await ledger(admin) == [("settle", 123)]


async def test_a_process_stops_though_the_database_is_away(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end entries are waited for a moment only: what is not written then is charged as unknown later. (P1)"""
    monkeypatch.setattr(wire_calls, "WRITE_S", 0.1)
    calls, call = WireCalls(database), new_call(1)
    await calls.open(call)
    await database.stop()
    calls.close(WireEntry(call.call_id, "settle", 123, moment(), USAGE))
    async with asyncio.timeout(10):
        await calls.drain()
    await database.start()
    await calls.drain()


async def test_a_reservation_that_is_refused_is_not_under_way(database: Database) -> None:
    """A row that the database will not have leaves no call behind that the end of the process would wait for."""
    calls = WireCalls(database)
    bad = replace(ASK, tier="fa\0st")
    account = LedgerAccount(WireLedger(calls, ids, clock, lambda: 1), CALLER, bad)
    price = ModelPrice(Rates(1, 1, 1, 1, 1), "v")
    nothing: Any = None
    served = Served(route("a"), "openai", None, nothing, nothing)
    with pytest.raises(asyncpg.PostgresError):
        await account.intend(Plan(bad, served, b"", price, 1, 500))
    async with asyncio.timeout(DRAIN_S / 2):
        await calls.drain()


async def test_a_process_without_a_number_reserves_nothing(database: Database, admin: asyncpg.Connection) -> None:
    """While a process that was taken for dead is registered anew, calls are refused: the keeper would charge them."""
    account = LedgerAccount(WireLedger(WireCalls(database), ids, clock, lambda: 0), CALLER, ASK)
    nothing: Any = None
    served = Served(route("a"), "openai", None, nothing, nothing)
    with pytest.raises(DatabaseUnavailable):
        await account.intend(Plan(ASK, served, b"", ModelPrice(Rates(1, 1, 1, 1, 1), "v"), 1, 500))
    assert await admin.fetchval("select count(*) from wire_call") == 0
