"""Lines whose money is spent: shut without being looked at, and opened when there is money again (P8)."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from record_kit import accept_all, claim, new_claims, new_run, session, until_blocked
from tollway.domain.budgets import Budget, LadderStep, Period, Rung
from tollway.domain.clock import AnchoredClock
from tollway.record.backlog import read_backlog
from tollway.record.budgets import budget_gate, exhausted, mend_broke, mend_gates, put_budgets
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.processes import register_process
from tollway.record.rungs import ByHand, put_rungs
from tollway.record.settings_sync import read_settings
from tollway.record.tenants import put_tenant
from tollway.record.upkeep import Upkeep
from tollway.record.writes import Leaving

USD = 1_000_000_000
WHOLE = Budget(0, "default", Period.MONTH, hard_nano=100 * USD)
TRIAGE = Budget(0, "default", Period.MONTH, hard_nano=100 * USD, agent="triage")


async def open_account(admin: asyncpg.Connection, spent: int, *, ends: str = "1 day") -> int:
    """An account of the newest budget with so much spent in a slice that lives; it ends after a while."""
    account: int = await admin.fetchval(
        "insert into budget_account (budget, begins, ends, opened) select max(id), now() - interval '1 day',"
        f" now() + interval '{ends}', true from budget returning id"
    )
    await admin.execute(
        "insert into budget_slice (account, process, granted_nano, spent_nano) values ($1, 1, $2, $2)", account, spent
    )
    return account


async def lines(admin: asyncpg.Connection) -> dict[tuple[str, str, str], int]:
    """The state of every line."""
    return {tuple(row)[:3]: row["state"] for row in await admin.fetch("select tenant, lane, class, state from flow")}


async def test_a_spent_budget_shuts_the_lines_it_covers_and_no_others(
    database: Database, admin: asyncpg.Connection
) -> None:
    """P8: what is behind them is not claimed nor looked at, an accept opens none, new lines are born shut."""
    await put_tenant(database, "other", {})
    await put_budgets(database, "default", [TRIAGE])
    account = await open_account(admin, 99 * USD)
    await accept_all(database, [new_run(), new_run(agent="echo"), new_run(tenant="other"), new_run(lane="batch")])
    assert await exhausted(database, account, USD // 100)
    assert not await exhausted(database, account, USD // 100)
    await accept_all(database, [new_run(), new_run(lane="interactive"), new_run(agent="echo", lane="batch")])
    assert await lines(admin) == {
        ("default", "standard", "triage"): 4,
        ("default", "batch", "triage"): 4,
        ("default", "interactive", "triage"): 4,
        ("default", "standard", "echo"): 0,
        ("default", "batch", "echo"): 0,
        ("other", "standard", "triage"): 0,
    }
    claims, _ = await new_claims(database)
    got = await claim(claims)
    assert ([one.tenant for one in got.claims], got.lines) == (["other"], 1)
    count = (await read_backlog(database, AnchoredClock())).of(tenant="default")
    assert (count.runnable, count.blocked, count.reasons) == (2, 4, {"budget": 4})


@pytest.mark.parametrize(
    ("spent", "need", "marked"),
    [(97 * USD, USD // 10, False), (99 * USD, USD // 10, True), (97 * USD, 2 * USD, True), (50 * USD, 60 * USD, False)],
)
async def test_little_must_be_left(
    database: Database, admin: asyncpg.Connection, spent: int, need: int, *, marked: bool
) -> None:
    """Exhausted is less than a fiftieth of the limit, or than twice the need, which counts up to a tenth: a large call
    that finds no room shuts no small ones out."""
    await put_budgets(database, "default", [WHOLE])
    account = await open_account(admin, spent)
    assert await exhausted(database, account, need) is marked


@pytest.mark.parametrize(
    "eased",
    [
        [],
        [Budget(0, "default", Period.MONTH, hard_nano=200 * USD)],
        [Budget(0, "default", Period.MONTH, soft_nano=USD)],
        [Budget(0, "default", Period.MONTH, hard_nano=100 * USD, on_hard=Rung.REFUSE)],
    ],
    ids=["removed", "raised", "lifted", "refuses"],
)
async def test_a_change_that_brings_money_opens_lines_and_gate(
    database: Database, admin: asyncpg.Connection, eased: list[Budget]
) -> None:
    """Queued runs may be claimed and parked ones are let go on at once; another limit that is lower does neither."""
    await put_budgets(database, "default", [WHOLE])
    account = await open_account(admin, 100 * USD)
    await park(database, await admin.fetchval("select max(id) from budget"))
    await accept_all(database, [new_run()])
    assert await exhausted(database, account, USD)
    keeper = Upkeep(database, await register_process(database, "keeper", 12.0))
    put = await put_budgets(database, "default", [Budget(0, "default", Period.MONTH, hard_nano=90 * USD)])
    assert put.opened == []
    assert await keeper.open_gates([]) == []
    assert set((await lines(admin)).values()) == {4}
    put = await put_budgets(database, "default", eased)
    assert put.opened == ["standard"]
    assert set((await lines(admin)).values()) == {0}
    due = await keeper.due()
    (gate,) = due.opens
    assert due.opens[gate] <= database.clock.now()


async def park(database: Database, budget: int, delay_s: float = 86_400.0) -> None:
    """A run behind the gate of a budget."""
    await accept_all(database, [new_run()])
    claims, worker = await new_claims(database)
    held = (await claim(claims)).claims[0]
    leaving = Leaving(held.run_id, held.fence, held.next_seq, delay_s, 0, "parked", None, gate=budget_gate(budget))
    assert await JournalRecord(database, worker).requeue([leaving]) == [True]


async def test_the_keeper_opens_what_a_new_period_pays(database: Database, admin: asyncpg.Connection) -> None:
    """When the period is over its lines open, and it is looked for by one cheap question."""
    keeper = Upkeep(database, await register_process(database, "keeper", 12.0))
    assert not (await keeper.stuck()).broke
    await put_budgets(database, "default", [WHOLE])
    account = await open_account(admin, 100 * USD)
    await accept_all(database, [new_run()])
    assert await exhausted(database, account, USD)
    assert (await keeper.stuck()).broke
    assert (await keeper.mend_broke()).lanes == []
    await admin.execute("update budget_account set ends = now() - interval '1 second'")
    mended = await keeper.mend_broke()
    assert (mended.lanes, mended.opened) == (["standard"], True)
    assert set((await lines(admin)).values()) == {0}
    assert not (await keeper.stuck()).broke


async def test_money_that_comes_in_opens_them(database: Database, admin: asyncpg.Connection) -> None:
    """Much more than was missing must be left, so that nothing opens and shuts by turns; then parked runs go on too."""
    await put_budgets(database, "default", [WHOLE])
    account = await open_account(admin, 99 * USD)
    await park(database, await admin.fetchval("select max(id) from budget"))
    assert await exhausted(database, account, USD // 10)
    await admin.execute("update budget_slice set spent_nano = $1", 97 * USD)
    assert not (await mend_broke(database)).opened
    await admin.execute("update budget_slice set spent_nano = $1", 90 * USD)
    assert (await mend_broke(database)).opened
    assert set((await lines(admin)).values()) == {0}
    assert await admin.fetchval("select opens_at <= clock_timestamp() from queue")


async def test_a_line_that_a_race_left_as_it_was_is_mended(database: Database, admin: asyncpg.Connection) -> None:
    """A shut line without a spent budget is opened, an open one with one is shut."""
    await accept_all(database, [new_run()])
    await admin.execute("update flow set state = 4")
    assert (await mend_broke(database)).lanes == ["standard"]
    await put_budgets(database, "default", [WHOLE])
    assert await exhausted(database, await open_account(admin, 100 * USD), USD)
    await admin.execute("update flow set state = 1")
    await mend_broke(database)
    assert set((await lines(admin)).values()) == {4}


async def test_who_came_too_late_to_see_a_change_is_let_go(database: Database, admin: asyncpg.Connection) -> None:
    """A run that parks just after its budget was raised or removed waits for no period's end.

    Budgets that are put again unchanged let nobody go.
    """
    await put_budgets(database, "default", [WHOLE])
    budget = await admin.fetchval("select max(id) from budget")
    await park(database, budget)
    await admin.execute("update budget set updated_at = now() - interval '1 hour'")
    assert await mend_gates(database) == 0
    await put_budgets(database, "default", [WHOLE])
    assert await mend_gates(database) == 0
    await put_budgets(database, "default", [replace(WHOLE, hard_nano=200 * USD)])
    await park(database, budget)
    assert await mend_gates(database) == 1
    await park(database, 4711)
    assert await mend_gates(database) == 1
    assert await mend_gates(database) == 0


async def test_a_pause_and_a_cap_beside_an_empty_budget(database: Database, admin: asyncpg.Connection) -> None:
    """A paused tenant's lines stay paused; resumed, or given another cap, those without money stay shut."""
    await put_budgets(database, "default", [TRIAGE])
    account = await open_account(admin, 100 * USD)
    await accept_all(database, [new_run(), new_run(agent="echo")])
    await put_tenant(database, "default", {"paused": True})
    assert await exhausted(database, account, USD)
    assert set((await lines(admin)).values()) == {2}
    assert (await put_tenant(database, "default", {"paused": False})).opened == ["standard"]
    shut = {("default", "standard", "triage"): 4, ("default", "standard", "echo"): 0}
    assert await lines(admin) == shut
    assert (await put_tenant(database, "default", {"max_running": 5})).opened == []
    assert await lines(admin) == shut
    await put_tenant(database, "default", {"paused": True})
    await put_budgets(database, "default", [])
    assert set((await lines(admin)).values()) == {2}
    await put_tenant(database, "default", {"paused": False})
    assert set((await lines(admin)).values()) == {0}


async def test_a_pause_waits_for_an_account_that_is_being_marked(
    database: Database, database_url: str, admin: asyncpg.Connection
) -> None:
    """The two turn the same lines: the pause waits before it holds any, so neither waits for the other for ever."""
    await accept_all(database, [new_run(), new_run(lane="batch")])
    async with session(database_url) as marking, marking.transaction():
        await marking.execute("select pg_advisory_xact_lock(hashtext('tollway.broke'), hashtext('default'))")
        pausing = asyncio.create_task(put_tenant(database, "default", {"paused": True}))
        await until_blocked(admin)
        await marking.fetch("select from flow where tenant = 'default' order by lane, class for no key update")
    await pausing
    assert set((await lines(admin)).values()) == {2}


async def test_the_interactive_lane_keeps_its_share(database: Database, admin: asyncpg.Connection) -> None:
    """While its part is left the interactive lane is open and the others are shut; then it is shut too."""
    await put_budgets(
        database, "default", [Budget(0, "default", Period.MONTH, hard_nano=100 * USD, interactive_share=0.3)]
    )
    account = await open_account(admin, 69 * USD)
    await accept_all(database, [new_run(), new_run(lane="interactive")])
    assert await exhausted(database, account, USD // 10)
    assert await lines(admin) == {("default", "standard", "triage"): 4, ("default", "interactive", "triage"): 0}
    await admin.execute("update budget_slice set spent_nano = $1", 99 * USD)
    assert await exhausted(database, account, USD // 10)
    assert set((await lines(admin)).values()) == {4}


async def test_forced_to_park_shuts_lines_and_others_shut_none(database: Database, admin: asyncpg.Connection) -> None:
    """An operator's `park` shuts lines by itself; budgets that refuse, or cover a part of a line, shut none."""
    await accept_all(database, [new_run()])
    part = Budget(0, "default", Period.MONTH, hard_nano=USD, task_type="legal")
    refusing = Budget(
        0, "default", Period.DAY, hard_nano=USD, on_hard=Rung.REFUSE, ladder=(LadderStep(50.0, Rung.ALERT),)
    )
    for budget in (part, refusing):
        await put_budgets(database, "default", [budget])
        assert await exhausted(database, await open_account(admin, USD), USD)
        assert set((await lines(admin)).values()) == {0}
    await admin.execute("update budget set forced = array['park']")
    await mend_broke(database)
    assert set((await lines(admin)).values()) == {4}


async def test_a_ladder_that_parks_early_shuts_lines_by_what_is_spent(
    database: Database, admin: asyncpg.Connection
) -> None:
    """P8, P12: from its share of the limit on what `park` covers is not looked at; lifted by hand it is again."""
    ladder = (LadderStep(60.0, Rung.PARK),)
    await put_budgets(
        database, "default", [Budget(0, "default", Period.DAY, hard_nano=100 * USD, ladder=ladder, on_hard=Rung.REFUSE)]
    )
    await open_account(admin, 59 * USD)
    await accept_all(database, [new_run(), new_run(lane="interactive")])
    await mend_broke(database)
    assert set((await lines(admin)).values()) == {0}
    await admin.execute("update budget_slice set spent_nano = $1", 60 * USD)
    await mend_broke(database)
    assert set((await lines(admin)).values()) == {4}
    (budget,) = (await read_settings(database)).budgets["default"]
    put = await put_rungs(database, "default", budget.id, ByHand((), (Rung.PARK,)))
    assert put is not None
    assert sorted(put.opened) == ["interactive", "standard"]
    assert set((await lines(admin)).values()) == {0}
