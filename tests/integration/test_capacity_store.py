"""Capacity leases in the real Postgres: never more than the limit, gone with their process, learned after a crash."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from runtime_kit import until_true
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import DatabaseUnavailable
from tollway.hotstate.capacity import NOTHING, DayWant, FlowWant, Grant, Limits, Vector, Want
from tollway.hotstate.postgres_capacity import PostgresCapacity
from tollway.record.database import Database, DatabaseOptions
from tollway.record.sql import query

CALL: Vector = (1.0, 100.0, 50.0, 50.0)
LIMITS = Limits((100.0, 10_000.0, 0.0, 0.0))


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresCapacity]:
    """The store as processes have it: lazy commits."""
    database = Database(DatabaseOptions(database_url, durable=False, connections_max=8), AnchoredClock())
    await database.start()
    yield PostgresCapacity(database)
    await database.stop()


def want(calls_per_s: float, tenant: str = "t", route: str = "r", **given: Any) -> Want:
    """A process that wants so many calls a second, and lets one wait."""
    a, b, c, d = CALL
    rates = (a * calls_per_s, b * calls_per_s, c * calls_per_s, d * calls_per_s)
    flow = FlowWant("standard", tenant, "a", rates, given.pop("slots", 0))
    whole: dict[str, Any] = {
        "limits": LIMITS, "lanes": {"standard": 1.0}, "flows": (flow,), "call": CALL, "heads": (CALL,),
        "waiting": 1, "backlog": CALL,
    }  # fmt: skip
    return Want(route=route, **{**whole, **given})


async def ask(store: PostgresCapacity, process: int, *wants: Want) -> Grant:
    """One exchange; the grant of the first route."""
    return (await store.exchange(process, list(wants)))[0]


async def test_concurrent_exchanges_never_grant_more_than_the_limit(store: PostgresCapacity) -> None:
    """P5: of 12 processes that all want all of it at once, what they lease together is within the limit at any time."""
    held: dict[int, Vector] = {}

    async def process(number: int, rounds: int) -> None:
        for _ in range(rounds):
            held[number] = (await ask(store, number, want(200.0, f"t{number % 5}"), want(20.0, route="other"))).rates
            assert sum(rates[0] for rates in held.values()) <= 100
            assert sum(rates[1] for rates in held.values()) <= 10_000

    await asyncio.gather(*(process(number, 6) for number in range(12)))
    for number in (*range(12), *range(12)):  # whoever was heard last before others gave back is heard again
        await process(number, 1)
    assert sum(rates[0] for rates in held.values()) > 95


async def test_the_first_call_on_an_idle_route_goes_at_once(store: PostgresCapacity) -> None:
    """A route that was idle has a little saved up: the first process that asks gets its call there and then."""
    grant = await ask(store, 1, want(1.0))
    assert grant.amount[0] == 1
    assert grant.amount[1] == 100
    assert grant.rates[0] > 1
    assert not grant.learning


async def test_a_small_limit_is_handed_out_call_by_call(store: PostgresCapacity) -> None:
    """At 6 calls a minute nobody leases a rate: calls are promised one by one, each in its time, in turn."""
    limits = Limits((0.1, 0.0, 0.0, 0.0))
    calls: list[tuple[int, float]] = []
    for process in (1, 2, 3, 1):
        grant = await ask(store, process, want(1.0, limits=limits, heads=(CALL, CALL), waiting=2))
        assert grant.rates == NOTHING
        calls += [(process, later.in_s) for later in grant.later]
    assert len(calls) == 1
    assert calls[0][1] == 0


async def test_a_process_that_leaves_or_dies_gives_its_share_back(
    store: PostgresCapacity, admin: asyncpg.Connection
) -> None:
    """P5: who leaves is gone at once, who is killed when its lease ends; then another may have all of it."""
    await ask(store, 1, want(200.0))
    assert await admin.fetchval("select count(*) from capacity_lease") == 1
    await ask(store, 1, want(0.0, flows=(), heads=(), waiting=0, leaving=True))
    assert await admin.fetchval("select count(*) from capacity_lease") == 0
    await ask(store, 2, want(200.0))
    assert (await ask(store, 3, want(200.0))).rates[0] < 5

    async def whole_again() -> bool:
        return (await ask(store, 3, want(200.0))).rates[0] > 95

    await until_true(whole_again, within_s=6)
    assert [row[0] for row in await admin.fetch("select process from capacity_lease")] == [3]


async def test_leases_lost_in_a_crash_are_learned_before_any_is_granted(
    store: PostgresCapacity, admin: asyncpg.Connection
) -> None:
    """Emptied tables of a known route: for one lease time a process gets what it says it holds, and no more."""
    before = await ask(store, 1, want(200.0))
    await admin.execute("truncate capacity_route, capacity_lease")
    newcomer = await ask(store, 2, want(200.0))
    assert newcomer.learning
    assert newcomer.rates == newcomer.amount == NOTHING
    assert not newcomer.later
    known = await ask(store, 1, want(200.0, held=before.rates))
    assert known.learning
    assert known.rates == before.rates

    async def learned() -> bool:
        return not (await ask(store, 2, want(200.0))).learning

    await until_true(learned, within_s=6)


async def test_tokens_of_the_day_outlive_a_crash(store: PostgresCapacity, admin: asyncpg.Connection) -> None:
    """Slices of the day are taken from one count, returned to it, and known after the unlogged tables were emptied."""
    limits = Limits(day_tokens=1000)
    first = await ask(store, 1, want(1.0, limits=limits, day=DayWant(0, 100.0, 5000.0)))
    assert first.day is not None
    assert 100 <= first.day.tokens < 300
    await admin.execute("truncate capacity_route, capacity_lease")
    second = await ask(store, 2, want(1.0, limits=limits, day=DayWant(first.day.day, 200.0)))
    assert second.day is not None
    assert second.day.left == pytest.approx(1000 - first.day.tokens - 200)
    third = await ask(store, 1, want(1.0, limits=limits, day=DayWant(first.day.day, 9000.0, 0.0, first.day.tokens)))
    assert third.day is not None
    assert third.day.tokens == 0
    assert third.day.left == pytest.approx(800)


async def test_slots_are_whole_and_within_the_limit(store: PostgresCapacity) -> None:
    """Five calls at once over three processes that each want nine: whole slots, together five, none without one."""
    limits = Limits(slots=5)
    used = [0, 0, 0]
    for turn in range(6):
        for number in range(3):
            told = want(1.0, limits=limits, slots=9, slots_used=used[number])
            used[number] = (await ask(store, number, told)).slots
            assert sum(used) <= 5
        if turn < 4:  # calls end, and are told of with the next exchange
            used = [max(0, calls - 1) for calls in used]
    assert sum(used) == 5
    assert min(used) >= 1


async def test_a_stopped_process_does_not_hold_the_others_up(
    store: PostgresCapacity, database_url: str, admin: asyncpg.Connection
) -> None:
    """Who falls silent within its exchange loses its transaction: the others exchange again within seconds."""
    await ask(store, 1, want(1.0))
    silent = await asyncpg.connect(database_url)
    transaction = silent.transaction()
    await transaction.start()
    await silent.fetch(query("lock_capacity"), ["r"])

    async def exchanged() -> bool:
        try:
            await ask(store, 2, want(1.0))
        except DatabaseUnavailable:
            return False
        return True

    await until_true(exchanged, within_s=10)
    silent.terminate()


async def test_what_is_read_and_kept_is_small(store: PostgresCapacity, admin: asyncpg.Connection) -> None:
    """A row a route, and a row a process and route with a live lease: nothing grows with time or calls."""
    for _ in range(5):
        for process in range(4):
            await ask(store, process, want(50.0), want(1.0, route="other"))
    assert await admin.fetchval("select count(*) from capacity_route") == 2
    assert await admin.fetchval("select count(*) from capacity_lease") == 8
    assert await admin.fetchval("select count(*) from capacity_book") == 2
    assert await admin.fetchval("select max(pg_column_size(lease)) from capacity_lease") < 2000
