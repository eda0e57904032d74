"""Budgets on the real record: several guards as processes, their deaths, and what they may spend."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest

from record_kit import clock, ids
from tollway.domain.budgets import Budget, Period, Rung
from tollway.domain.errors import LlmError
from tollway.domain.llm import Caller
from tollway.record.budget_leases import BudgetLeases
from tollway.record.budgets import budgets_by_tenant, put_budgets
from tollway.record.database import Database
from tollway.record.processes import register_process
from tollway.record.wire_calls import WireCall, WireCalls, WireEntry
from tollway.spend.budgets import Hold
from tollway.spend.guard import BudgetGuard

CALLER = Caller("default", "standard", "triage", key_id="k")
INNER = replace(CALLER, lane="interactive")
DAY = Budget(0, "default", Period.DAY, hard_nano=300_000, on_hard=Rung.REFUSE)


class Desk:
    """A process that makes calls: its guard, and what writes their money."""

    def __init__(self, database: Database, process: int) -> None:
        self.process = process
        self.guard = BudgetGuard(BudgetLeases(database), clock)
        self.calls = WireCalls(database)

    async def open(self, nano: int, patience_s: float = 20.0, caller: Caller = CALLER) -> tuple[Hold, WireCall]:
        """Reserve, and have it on record."""
        hold = await self.guard.reserve(caller, nano, patience_s)
        at = datetime.fromtimestamp(clock.now(), UTC)
        call = WireCall(
            ids.new(), self.process, "default", "k", caller.lane, "t", "r", "p", "m", "v", nano, at, accounts=hold.told
        )
        await self.calls.open(call)
        return hold, call

    async def close(self, hold: Hold, call: WireCall, cost: int) -> None:
        """The call cost this."""
        await self.calls.close(WireEntry(call.call_id, "settle", cost, datetime.fromtimestamp(clock.now(), UTC)))
        self.guard.settle(hold, cost)

    async def call(self, nano: int, cost: int) -> bool:
        """A whole call; False where no money is left for it."""
        try:
            hold, call = await self.open(nano)
        except LlmError as error:
            assert error.code == "budget_exhausted"
            return False
        await asyncio.sleep(0)
        await self.close(hold, call, cost)
        return True


Open = Callable[..., Awaitable[Desk]]


@pytest.fixture
async def desks(database: Database) -> AsyncIterator[Open]:
    """Makes processes, each with the budgets as they stand then."""
    async with AsyncExitStack() as stack:

        async def make() -> Desk:
            desk = Desk(database, await register_process(database, "api", 12.0))
            found = budgets_by_tenant(await database.rows("list_budgets"))
            version = await database.value("read_settings_version")
            desk.guard.start(lambda: desk.process, lambda: found, desk.calls.settled)
            desk.guard.changed(version)
            stack.push_async_callback(desk.guard.stop)
            stack.push_async_callback(desk.calls.drain)
            return desk

        yield make


async def in_force(database: Database, admin: asyncpg.Connection, *budgets: Budget) -> None:
    """These budgets, as if they had been set before their periods began."""
    await put_budgets(database, "default", budgets)
    await admin.execute("update budget set created_at = '-infinity'")


async def accounts(admin: asyncpg.Connection) -> list[tuple[int, int]]:
    """What is spent and granted of every account."""
    rows = await admin.fetch("select spent_nano, granted_nano from budget_account order by id")
    return [tuple(row) for row in rows]


async def test_two_thousand_calls_against_money_for_three_hundred(
    database: Database, admin: asyncpg.Connection, desks: Open
) -> None:
    """P4: of 2,000 calls at once at 4 processes just 300 are made, and all of the limit is used."""
    await in_force(database, admin, DAY)
    four = [await desks() for _ in range(4)]
    made = await asyncio.gather(*(desk.call(1000, 1000) for desk in four for _ in range(500)))
    assert sum(made) == 300
    assert await admin.fetchval("select sum(nano) from ledger") == 300_000
    for desk in four:
        await desk.guard.stop()
    assert await accounts(admin) == [(300_000, 0)]
