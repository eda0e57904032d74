"""Guards while budgets change, and while answers of their leases are lost."""

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from desk_kit import CALLER, DAY, Desk, accounts, closed, in_force
from record_kit import clock, session, until_blocked
from runtime_kit import until
from tollway.domain.errors import DatabaseUnavailable
from tollway.record import budgets as budgets_record
from tollway.record.budget_leases import BudgetLeases
from tollway.record.budgets import budgets_by_tenant, put_budgets
from tollway.record.database import Database
from tollway.record.processes import register_process
from tollway.spend.budgets import Hold
from tollway.spend.guard import BudgetGuard


async def test_a_limit_that_was_raised_refuses_nobody_by_what_was_before(
    database: Database, admin: asyncpg.Connection
) -> None:
    """A call that comes once the change is known is not parked for a whole period by figures of a moment ago."""
    await in_force(database, admin, DAY)
    desk = Desk(database, await register_process(database, "api", 12.0))
    found = budgets_by_tenant(await database.rows("list_budgets"))
    desk.guard.start(lambda: desk.process, lambda: found, desk.calls.settled)
    try:
        assert await desk.call(300_000, 300_000)
        assert not await desk.call(1000, 1000)
        put = await put_budgets(database, "default", [replace(DAY, hard_nano=900_000)])
        found = budgets_by_tenant(await database.rows("list_budgets"))
        desk.guard.changed(put.version)
        assert await desk.call(1000, 1000)
    finally:
        await closed([desk])


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_is_stranded_counts_once_though_an_answer_is_lost(
    database: Database, admin: asyncpg.Connection, arrives: bool
) -> None:
    """P4: a lease whose answer nobody heard may have been made or not; what was given up is spent just once."""
    await in_force(database, admin, DAY)
    desk = Desk(database, await register_process(database, "api", 12.0))
    leases = BudgetLeases(database)
    made, lost = leases.lease, 0

    async def lease(*told: Any) -> Any:
        nonlocal lost
        if told[3] and not lost:
            lost += 1
            if arrives:
                await made(*told)
            raise DatabaseUnavailable("its answer is lost")
        return await made(*told)

    leases.lease = lease  # type: ignore[method-assign]
    desk.guard = BudgetGuard(leases, clock)
    found = budgets_by_tenant(await database.rows("list_budgets"))
    desk.guard.start(lambda: desk.process, lambda: found, desk.calls.settled)
    hold, _ = await desk.open(1000)
    kept, _ = await desk.open(500)
    desk.guard.strand(hold)
    turn = desk.guard._leasing._turn
    await until(lambda: lost and desk.guard._leasing._turn > turn + 1 and not desk.guard._leasing._unsure)
    slice_ = await admin.fetchrow("select spent_nano, reserved_nano from budget_slice")
    assert tuple(slice_) == (1000, 500)
    desk.guard.strand(kept)
    await desk.guard.stop()
    assert await accounts(admin) == [(1500, 0)]


async def test_runs_that_a_raised_limit_lets_go_on_keep_no_lease_waiting(
    database: Database, database_url: str, admin: asyncpg.Connection
) -> None:
    """P6: however many are parked, they are woken after the change, which holds no account any more by then."""
    await in_force(database, admin, DAY)
    desk = Desk(database, await register_process(database, "api", 12.0))
    found = budgets_by_tenant(await database.rows("list_budgets"))
    desk.guard.start(lambda: desk.process, lambda: found, desk.calls.settled)
    assert await desk.call(1000, 1000)
    async with session(database_url) as slow, slow.transaction():
        await slow.execute("lock table queue in share mode")
        raised = asyncio.create_task(put_budgets(database, "default", [replace(DAY, hard_nano=600_000)]))
        await until_blocked(admin)
        hold, call = await desk.open(200_000, patience_s=5.0)
        await desk.close(hold, call, 1000)
        assert not raised.done()
    await raised
    await closed([desk])


async def test_who_was_just_given_money_of_old_budgets_hands_in_his_intent_before_the_new_are_seen(
    database: Database, admin: asyncpg.Connection
) -> None:
    """P4: a new budget opens with all calls that reserve nothing in it on record, those that waited for money too."""
    await in_force(database, admin, DAY)
    desk = Desk(database, await register_process(database, "api", 12.0))
    found = budgets_by_tenant(await database.rows("list_budgets"))
    version = await database.value("read_settings_version")
    heard: list[bool] = []
    calls: list[asyncio.Task[Hold]] = []

    async def settled() -> None:
        heard.extend(call.done() for call in calls)

    desk.guard.start(lambda: desk.process, lambda: found, settled)
    try:
        hold = await desk.guard.reserve(CALLER, 300_000, 20.0)
        calls.append(asyncio.create_task(desk.guard.reserve(CALLER, 1000, 60.0)))
        await until(lambda: desk.guard._pause_s > 0.2)
        turn = desk.guard._leasing._turn
        await until(lambda: desk.guard._leasing._turn > turn)
        rested_at = clock.monotonic() + 0.1
        await until(lambda: clock.monotonic() > rested_at)
        desk.guard.settle(hold, 0)
        desk.guard.changed(version)
        await until(lambda: heard)
        assert heard == [True]
        desk.guard.settle(await calls[0], 0)
    finally:
        await closed([desk])


async def test_all_who_wait_for_a_budget_are_woken_however_many(
    database: Database, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: they are woken some at a time, until none is left; who waits for another budget is not."""
    monkeypatch.setattr(budgets_record, "HASTEN_MAX", 2)
    await in_force(database, admin, DAY)
    budget = await admin.fetchval("select id from budget")
    await admin.execute("set session_replication_role = replica")
    parked = """insert into queue (run_id, lane, class, tenant, place, gate, opens_at)
        select gen_random_uuid(), 'standard', 'triage', 'default', n, 'budget:' || $1::bigint, now() + interval '1 hour'
        from generate_series(1, 5) as n"""
    for gate in (budget, budget + 1):
        await admin.execute(parked, gate)
    await put_budgets(database, "default", [replace(DAY, hard_nano=600_000)])
    left = await admin.fetch("select gate, count(*) from queue where opens_at > clock_timestamp() group by gate")
    assert [tuple(row) for row in left] == [(f"budget:{budget + 1}", 5)]
