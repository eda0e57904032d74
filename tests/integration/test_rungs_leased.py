"""Rungs as processes know them: from the leases of their guards, on the real record."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import asyncpg
import pytest

from record_kit import clock
from runtime_kit import until, until_true
from tollway.domain.budgets import Budget, LadderStep, Period, Rung
from tollway.domain.llm import Caller
from tollway.record.budget_leases import BudgetLeases
from tollway.record.budgets import budgets_by_tenant, put_budgets
from tollway.record.database import Database
from tollway.record.processes import register_process
from tollway.spend import guard as guarding
from tollway.spend import slices
from tollway.spend.budgets import SOUND
from tollway.spend.guard import BudgetGuard

CALLER = Caller("default", "standard", "triage")
DOLLAR = 1_000_000_000
STEPS = (LadderStep(50, Rung.THROTTLE), LadderStep(80, Rung.LOWER_TIER))
Make = Callable[[], Awaitable[BudgetGuard]]


@pytest.fixture
async def guard(database: Database, admin: asyncpg.Connection) -> AsyncIterator[Make]:
    """Makes processes that know of a budget of a dollar a day."""
    await put_budgets(database, "default", [Budget(0, "default", Period.DAY, hard_nano=DOLLAR, ladder=STEPS)])
    await admin.execute("update budget set created_at = '-infinity'")
    async with AsyncExitStack() as stack:

        async def make() -> BudgetGuard:
            process = await register_process(database, "api", 12.0)
            found = budgets_by_tenant(await database.rows("list_budgets"))
            version = await database.value("read_settings_version")
            made = BudgetGuard(BudgetLeases(database), clock)
            made.start(lambda: process, lambda: found)
            made.changed(version)
            stack.push_async_callback(made.stop)
            return made

        yield make


async def test_a_process_at_rest_asks_first(admin: asyncpg.Connection, guard: Make) -> None:
    """P12: the first call of an idle process is judged by what others spent; whom no budget covers asks nobody."""
    one = await guard()
    assert one.standing(CALLER) is SOUND
    assert await one.look(CALLER) is SOUND
    assert await one.look(replace(CALLER, tenant="other")) is SOUND
    await admin.execute("update budget_account set spent_nano = $1", 8 * DOLLAR // 10)
    other = await guard()
    standing = await other.look(CALLER)
    assert standing.rungs == {Rung.THROTTLE, Rung.LOWER_TIER}
    assert other.standing(CALLER).rungs == standing.rungs


async def test_those_who_spend_share_the_pace(admin: asyncpg.Connection, guard: Make) -> None:
    """The rest of a throttled budget is paced by as many processes as have leases of it."""
    two = [await guard(), await guard()]
    for one in two:
        await one.look(CALLER)
    await admin.execute("update budget_account set spent_nano = $1", 6 * DOLLAR // 10)

    async def paced() -> bool:
        standings = [await one.look(CALLER) for one in two]
        return all([pace.sharers for pace in standing.paces] == [2] for standing in standings)

    await until_true(paced)
    pace = two[0].standing(CALLER).paces[0]
    assert pace.left_nano == 4 * DOLLAR // 10
    assert 0 < pace.lasts_s <= 86_400


async def test_what_is_spent_leads_down_while_calls_are_made(admin: asyncpg.Connection, guard: Make) -> None:
    """A process that holds money hears of a rung with its next lease."""
    one = await guard()
    hold = await one.reserve(CALLER, 1000, 5.0)
    assert one.standing(CALLER) is SOUND
    await admin.execute("update budget_account set spent_nano = $1", 7 * DOLLAR // 10)
    await until(lambda: one.standing(CALLER).rungs == {Rung.THROTTLE})
    one.settle(hold, 1000)


async def test_a_look_asks_for_all_budgets_though_one_has_nothing_left(
    database: Database, admin: asyncpg.Connection, guard: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: whoever only looks takes no money, so one budget that is spent for its lane keeps none from answering."""
    monkeypatch.setattr(guarding, "LOOK_S", 60.0)
    monkeypatch.setattr(guarding, "STALE_S", 0.1)
    monkeypatch.setattr(slices, "IDLE_S", 0.1)
    all_ = Budget(0, "default", Period.DAY, hard_nano=DOLLAR, interactive_share=0.5)
    await put_budgets(database, "default", [all_, replace(all_, agent="triage", ladder=STEPS)])
    await admin.execute("update budget set created_at = '-infinity'")
    one = await guard()
    hold = await one.reserve(replace(CALLER, lane="interactive", agent="other"), 97 * DOLLAR // 100, 5.0)
    async with asyncio.timeout(20):
        assert await one.look(CALLER) is SOUND
        await until(lambda: len(one._leasing._slices) == 1, within_s=10.0)
        assert await one.look(CALLER) is SOUND
    one.settle(hold, 0)
