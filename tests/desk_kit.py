"""A process that makes calls paid by budgets: its guard, and what writes their money; on the real record."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg

from record_kit import clock, ids
from tollway.domain.budgets import Budget, Period, Rung
from tollway.domain.errors import LlmError
from tollway.domain.llm import Caller
from tollway.record.budget_leases import BudgetLeases
from tollway.record.budgets import put_budgets
from tollway.record.database import Database
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
            if error.code != "budget_exhausted" or error.parks:
                raise
            return False
        await asyncio.sleep(0)
        await self.close(hold, call, cost)
        return True


async def in_force(database: Database, admin: asyncpg.Connection, *budgets: Budget) -> None:
    """These budgets, as if they had been set before their periods began."""
    await put_budgets(database, "default", budgets)
    await admin.execute("update budget set created_at = '-infinity'")


async def accounts(admin: asyncpg.Connection) -> list[tuple[int, int]]:
    """What is spent and granted of every account."""
    rows = await admin.fetch("select spent_nano, granted_nano from budget_account order by id")
    return [tuple(row) for row in rows]


async def closed(desks_: Iterable[Desk]) -> None:
    """These processes leave in good order."""
    for desk in desks_:
        await desk.calls.drain()
        await desk.guard.stop()
