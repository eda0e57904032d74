"""Budgets on the real record: several guards as processes, their deaths, and what they may spend."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import asyncpg
import msgspec
import pytest

from budget_kit import Account, Process
from desk_kit import CALLER, DAY, INNER, Desk, accounts, closed, in_force
from record_kit import clock, ids, session, until_blocked
from runtime_kit import until, until_true
from tollway.domain.budgets import Period, Rung
from tollway.domain.errors import LlmError
from tollway.record.budget_leases import BudgetLeases
from tollway.record.budgets import budgets_by_tenant, put_budgets
from tollway.record.database import Database
from tollway.record.processes import ProcessGone, register_process
from tollway.record.tenants import put_tenant
from tollway.record.upkeep import Upkeep
from tollway.record.wire_calls import WireCall
from tollway.spend import slices
from tollway.spend.guard import BudgetGuard, GuardOptions

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


async def test_two_thousand_calls_against_money_for_three_hundred(
    database: Database, admin: asyncpg.Connection, desks: Open
) -> None:
    """P4: of 2,000 calls at once at 4 processes just 300 are made, and all of the limit is used."""
    await in_force(database, admin, DAY)
    four = [await desks() for _ in range(4)]
    made = await asyncio.gather(*(desk.call(1000, 1000) for desk in four for _ in range(500)))
    assert sum(made) == 300
    assert await admin.fetchval("select sum(nano) from ledger") == 300_000
    await closed(four)
    assert await accounts(admin) == [(300_000, 0)]


async def test_nearly_all_of_a_limit_is_usable(database: Database, admin: asyncpg.Connection, desks: Open) -> None:
    """P4: 4 processes whose calls cost less than their worst case, 1 % of the limit, use 98 % of it and never more."""
    await in_force(database, admin, replace(DAY, hard_nano=1_000_000))
    four = [await desks() for _ in range(4)]
    chance = random.Random(7)

    async def spend(desk: Desk) -> None:
        while await desk.call(10_000, chance.randrange(1000, 10_000)):
            pass

    await asyncio.gather(*(spend(desk) for desk in four for _ in range(5)))
    await closed(four)
    ((spent, granted),) = await accounts(admin)
    assert 980_000 <= spent <= 1_000_000
    assert granted == 0
    assert await admin.fetchval("select sum(nano) from ledger") == spent


async def test_what_a_dead_process_had_reserved_counts_as_spent(
    database: Database, admin: asyncpg.Connection, desks: Open
) -> None:
    """P4: the keeper closes its slices at what its deltas say, as its calls end unknown; the rest others may spend."""
    await in_force(database, admin, DAY)
    dying, other = await desks(), await desks()
    settled, cut = await dying.open(50_000), await dying.open(100_000)
    await dying.close(*settled, 20_000)
    keeper = Upkeep(database, 1)
    await keeper.forget(dying.process)
    await keeper.close_budgets(dying.process)
    await keeper.end_lost_wire_calls()
    assert await accounts(admin) == [(120_000, 0)]
    kinds = "select kind, nano from ledger order by nano"
    assert [tuple(row) for row in await admin.fetch(kinds)] == [("settle", 20_000), ("unknown", 100_000)]
    assert await other.call(180_000, 180_000)
    assert not await other.call(1, 1)
    with pytest.raises(ProcessGone):
        await dying.calls.open(replace_call(cut[1]))
    await dying.close(*cut, 70_000)  # it was taken for dead, and its call came back: the entry stands already
    assert await keeper.mend_budgets() == 0
    await closed([other])
    assert await accounts(admin) == [(300_000, 0)]


async def test_what_a_keeper_missed_is_mended_later(database: Database, admin: asyncpg.Connection, desks: Open) -> None:
    """Slices, and deltas that come late, of a process that is on record no more are found."""
    await in_force(database, admin, DAY)
    dying = await desks()
    cut = await dying.open(100_000)
    await database.rows("forget_process", dying.process)
    assert await Upkeep(database, 1).mend_budgets() == 1
    assert await accounts(admin) == [(100_000, 0)]
    await dying.close(*cut, 70_000)  # the keeper had not ended its call yet
    assert await Upkeep(database, 1).mend_budgets() == 1
    assert await accounts(admin) == [(70_000, 0)]


async def test_several_dead_processes_are_closed_one_by_one(
    database: Database, database_url: str, admin: asyncpg.Connection
) -> None:
    """The closing of one holds no account while it waits for another's, so that no lease and it wait for each other."""
    await in_force(database, admin, DAY, replace(DAY, agent="triage"))
    for budget in await database.rows("list_budgets"):
        await BudgetLeases(database).open_account(budget["id"], 0.0, None)
    first, second = (row["id"] for row in await admin.fetch("select id from budget_account order by id"))
    await admin.execute("insert into budget_slice (account, process) values ($1, 1), ($2, 2)", second, first)
    async with session(database_url) as lease, lease.transaction():
        await lease.execute("select from budget_account where id = $1 for no key update", first)
        closing = asyncio.create_task(BudgetLeases(database).close([1, 2]))
        await until_blocked(admin)
        await lease.execute("select from budget_account where id = $1 for no key update", second)
    await closing
    assert await admin.fetchval("select count(*) from budget_slice") == 0


async def test_what_a_call_costs_beyond_its_reservation_counts(
    database: Database, admin: asyncpg.Connection, desks: Open
) -> None:
    """The excess is spent too, and the others have so much less."""
    await in_force(database, admin, DAY)
    desk = await desks()
    assert await desk.call(100_000, 250_000)
    assert await desk.call(50_000, 50_000)
    assert not await desk.call(1, 1)
    await closed([desk])
    assert await accounts(admin) == [(300_000, 0)]


async def test_all_budgets_pay_or_none(database: Database, admin: asyncpg.Connection, desks: Open) -> None:
    """A call is paid by every budget that covers it; where one cannot, the others keep what they have."""
    month = replace(DAY, period=Period.MONTH, hard_nano=1_000_000)
    agent = replace(DAY, agent="triage", hard_nano=2000)
    await in_force(database, admin, month, agent, replace(DAY, agent="other", hard_nano=0))
    desk = await desks()
    assert await desk.call(2000, 1500)
    with pytest.raises(LlmError) as refused:
        await desk.open(501)
    assert refused.value.exhausted is not None
    refusing = await admin.fetchval("select agent from budget where id = $1", refused.value.exhausted.budget)
    assert refusing == "triage"
    assert (refused.value.exhausted.parks, refused.value.final, refused.value.parks) == (False, True, False)
    assert await desk.call(500, 500)
    await closed([desk])
    spent = await admin.fetch("select spent_nano from budget_account order by id")
    assert [row[0] for row in spent] == [2000, 2000]


async def test_the_last_part_is_the_interactive_lanes(
    database: Database, admin: asyncpg.Connection, desks: Open
) -> None:
    """Other lanes stop where the interactive lane's share begins; that lane may use all."""
    await in_force(database, admin, replace(DAY, interactive_share=0.25))
    two = [await desks(), await desks()]
    made = await asyncio.gather(*(desk.call(1000, 1000) for desk in two for _ in range(200)))
    assert sum(made) == 225
    inner = [desk.open(1000, 0.5, INNER) for desk in two for _ in range(50)]
    assert len([one for one in await asyncio.gather(*inner, return_exceptions=True) if isinstance(one, tuple)]) == 75


async def test_one_waits_while_another_may_not_need_what_it_holds(
    database: Database, admin: asyncpg.Connection, desks: Open
) -> None:
    """What is reserved elsewhere may come back: a call waits for it; in vain, it is told to come again."""
    await in_force(database, admin, DAY)
    one, other = await desks(), await desks()
    held = await one.open(300_000)
    with pytest.raises(LlmError) as refused:
        await other.open(1000, patience_s=0.3)
    assert refused.value.exhausted is not None
    assert (refused.value.parks, refused.value.exhausted.parks, refused.value.exhausted.until) == (True, True, None)
    waiting = asyncio.ensure_future(other.call(1000, 1000))
    await one.close(*held, 10_000)
    assert await waiting


async def test_idle_money_comes_back(
    database: Database, admin: asyncpg.Connection, desks: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that makes no calls any more closes its slices, and asks nothing of the database after that."""
    monkeypatch.setattr(slices, "IDLE_S", 0.2)
    await in_force(database, admin, DAY)
    desk = await desks()
    assert await desk.call(1000, 400)

    async def given_back() -> bool:
        return await admin.fetchval("select count(*) from budget_slice") == 0

    await until_true(given_back)
    assert await accounts(admin) == [(400, 0)]
    assert desk.guard._at_rest
    assert await desk.call(1000, 400)


async def test_money_spent_before_a_budget_was_set_counts(
    database: Database, admin: asyncpg.Connection, desks: Open
) -> None:
    """A budget set within its period opens at what was spent and reserved in it; calls under way count at their end.

    What other tenants or agents spent does not.
    """
    desk = await desks()
    assert await desk.call(1000, 700)
    under_way = await desk.open(5000)
    await admin.execute("update ledger set agent = 'triage'")
    await put_budgets(database, "default", [DAY, replace(DAY, agent="other"), replace(DAY, lane="batch")])
    later = await desks()
    with pytest.raises(LlmError) as refused:
        await later.open(1, patience_s=0.3)
    assert refused.value.exhausted is not None
    assert refused.value.exhausted.parks
    await database.rows("see_budgets", desk.process, 1_000_000)
    hold, call = await later.open(1000)
    assert await accounts(admin) == [(5700, 1000)]
    await later.close(hold, call, 1000)
    await desk.close(*under_way, 4000)
    await Upkeep(database, 1).mend_budgets()
    await closed([later])
    assert await accounts(admin) == [(5700, 0)]
    assert await admin.fetchval("select count(*) from budget_opening") == 0


async def test_a_lowered_limit_holds_at_once(database: Database, admin: asyncpg.Connection, desks: Open) -> None:
    """Nothing more is granted beyond it, and what is granted and not used comes back; raised, it pays again."""
    await in_force(database, admin, DAY)
    desk = await desks()
    assert await desk.call(100_000, 100_000)
    await put_budgets(database, "default", [replace(DAY, hard_nano=100_500)])
    assert not await desk.call(1000, 1000)
    await put_budgets(database, "default", [replace(DAY, hard_nano=200_000)])
    await until_true(lambda: desk.call(1000, 1000))


async def test_a_new_incarnation_leases_anew(database: Database, admin: asyncpg.Connection, desks: Open) -> None:
    """An API process that was taken for dead drops its slices; calls of its old life settle against nothing."""
    await in_force(database, admin, DAY)
    desk = await desks()
    old = await desk.open(100_000)
    keeper = Upkeep(database, 1)
    await keeper.forget(desk.process)
    await keeper.close_budgets(desk.process)
    await keeper.end_lost_wire_calls()
    desk.process = await register_process(database, "api", 12.0)
    assert await desk.call(200_000, 200_000)
    await desk.close(*old, 50_000)
    assert not await desk.call(1, 1)
    await closed([desk])
    assert await accounts(admin) == [(300_000, 0)]


async def test_a_cancelled_wait_holds_nothing(database: Database, admin: asyncpg.Connection, desks: Open) -> None:
    """Whoever stops waiting for money leaves none reserved behind."""
    await in_force(database, admin, DAY)
    desk = await desks()
    waiting = [asyncio.ensure_future(desk.guard.reserve(CALLER, 1000, 20.0)) for _ in range(50)]
    await until(lambda: any(one.done() for one in waiting))
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for one in waiting:
        if not one.cancelled():
            desk.guard.settle(one.result(), 0)
    assert await desk.call(300_000, 300_000)


async def test_a_zone_that_is_not_known_here_keeps_nobody_else_waiting(
    database: Database, admin: asyncpg.Connection, desks: Open
) -> None:
    """P4: a process that lacks a budget's zone serves the others; what that budget covers is not paid past it."""
    sound, elsewhere = replace(DAY, agent="triage"), replace(DAY, agent="other", timezone="Mars/Olympus")
    await in_force(database, admin, sound, elsewhere)
    desk = await desks()
    with pytest.raises(LlmError) as refused:
        await desk.guard.reserve(replace(CALLER, agent="other"), 1000, 0.5)
    assert (refused.value.code, refused.value.parks) == ("budget_exhausted", True)
    assert await desk.call(1000, 1000)


async def test_an_account_that_takes_long_to_open_keeps_nobody_else_waiting(
    database: Database, database_url: str, admin: asyncpg.Connection
) -> None:
    """P6: one tenant's new budget, whose past is added up for long, leaves the slices of others in force."""
    await put_tenant(database, "other", {})
    await in_force(database, admin, DAY)
    await put_budgets(database, "other", [replace(DAY, tenant="other")])
    desk = Desk(database, await register_process(database, "api", 12.0))
    desk.guard = BudgetGuard(BudgetLeases(database), clock, GuardOptions(valid_s=0.5))
    found = budgets_by_tenant(await database.rows("list_budgets"))
    desk.guard.start(lambda: desk.process, lambda: found, desk.calls.settled)
    desk.guard.changed(await database.value("read_settings_version"))
    try:
        assert await desk.call(1000, 1000)
        async with session(database_url) as slow, slow.transaction():
            await slow.execute("select from budget where tenant = 'other' for update")
            patient = asyncio.create_task(desk.guard.reserve(replace(CALLER, tenant="other"), 1000, 60.0))
            await until_blocked(admin)
            until_s = clock.monotonic() + 1.0
            while clock.monotonic() < until_s:
                hold, call = await desk.open(1000, patience_s=1.0)
                await desk.close(hold, call, 10)
            assert not patient.done()
        desk.guard.settle(await patient, 0)
    finally:
        await closed([desk])


async def test_a_budget_with_a_ladder_that_is_spent_to_the_last_is_told_of(
    database: Database, admin: asyncpg.Connection
) -> None:
    """P8: its calls stop at the last rung and ask for no money, so none is refused any; it is told of all the same."""
    await in_force(database, admin, replace(DAY, soft_nano=100_000))
    told: list[tuple[int, int]] = []

    async def tell(account: int, need: int) -> None:
        told.append((account, need))

    desk = Desk(database, await register_process(database, "api", 12.0))
    desk.guard = BudgetGuard(BudgetLeases(database), clock, GuardOptions(on_exhausted=tell))
    found = budgets_by_tenant(await database.rows("list_budgets"))
    desk.guard.start(lambda: desk.process, lambda: found, desk.calls.settled)
    try:
        for _ in range(3):
            assert not told
            assert await desk.call(100_000, 100_000)
        await until(lambda: Rung.REFUSE in desk.guard.standing(CALLER).rungs)
        await until(lambda: told, within_s=5.0)
        assert told[0][1] == 1
    finally:
        await closed([desk])


@pytest.mark.parametrize("seed", range(3))
async def test_the_record_leases_as_the_model_does(database: Database, admin: asyncpg.Connection, seed: int) -> None:
    """Whatever is asked in whatever order, the record answers as its model, which never overshoots (P4)."""
    chance = random.Random(seed)
    hard = chance.choice([900, 5000, 100_000])
    await in_force(database, admin, replace(DAY, hard_nano=hard, interactive_share=chance.choice([0.0, 0.5])))
    leases = BudgetLeases(database)
    budget = (await database.rows("list_budgets"))[0]
    account, opened = await leases.open_account(budget["id"], 0.0, None) or (0, False)
    assert opened
    model = Account(hard, hard - round(hard * budget["interactive_share"]), crowd=3)
    crew = [Process(model, await register_process(database, "worker", 12.0)) for _ in range(3)]
    for step in range(120):
        process, amount = chance.choice(crew), chance.randrange(1, 300)
        if chance.random() < 0.08:
            await database.rows("forget_process", process.turn)
            await leases.close([process.turn])
            model.close(process.turn)
            crew[crew.index(process)] = Process(model, await register_process(database, "worker", 12.0))
        elif process.calls and chance.random() < 0.5:
            call = process.calls[0]
            process.end(call, min(amount, call.nano)) if call.intended else process.intend(call)
            if model.deltas:
                turn, spent, reserved = model.deltas[-1]
                await admin.execute(
                    "insert into budget_delta values ($1, $2, $3, $4)", turn, [account], spent, reserved
                )
        elif not process.reserve(amount, step, inner=amount % 2 == 0):
            ask = replace_account(process.ask(step, *[(amount, amount % 2 == 0)] * (amount % 3)), account)
            answer = model.lease(process.turn, ask)
            assert (await leases.lease(process.turn, step + 1, [ask], {}))[account] == replace_account(answer, account)
            process.slice.take(answer)
        assert await accounts(admin) == [(model.spent, model.granted)]


def replace_account(what: Any, account: int) -> Any:
    """The same of another account."""
    return msgspec.structs.replace(what, account=account)


def replace_call(call: WireCall) -> WireCall:
    """The same call made again."""
    return msgspec.structs.replace(call, call_id=ids.new())
