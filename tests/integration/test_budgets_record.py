"""Budgets on record, and how processes learn of them."""

import asyncpg
import pytest

from ingress_kit import LocalNews
from runtime_kit import until
from tollway.domain.budgets import Budget, LadderStep, Period, Rung
from tollway.record.budgets import BudgetBoard, put_budgets, read_budget_use
from tollway.record.database import Database
from tollway.record.settings_sync import read_settings

MONTH = Budget(0, "default", Period.MONTH, hard_nano=100_000_000_000, soft_nano=80_000_000_000)
DAY = Budget(
    0,
    "default",
    Period.DAY,
    "Europe/Berlin",
    5_000_000_000,
    agent="triage",
    lane="batch",
    task_type="legal",
    key="key-1",
    on_hard=Rung.REFUSE,
    ladder=(LadderStep(80.0, Rung.LOWER_TIER), LadderStep(100.0, Rung.REFUSE)),
    interactive_share=0.25,
)


async def of_default(database: Database) -> tuple[Budget, ...]:
    """The tenant's budgets, as API processes read them."""
    return (await read_settings(database)).budgets.get("default", ())


async def test_they_come_back_as_they_were_put(database: Database) -> None:
    """Every setting is kept, and the settings' version rises with each change."""
    first = (await put_budgets(database, "default", [MONTH, DAY])).version
    found = await of_default(database)
    assert [(one.id > 0, *_settings(one)) for one in found] == [(True, *_settings(one)) for one in (MONTH, DAY)]
    second = (await put_budgets(database, "default", [])).version
    assert first < second
    snapshot = await read_settings(database)
    assert (snapshot.budgets, snapshot.version) == ({}, second)


async def test_the_same_budget_keeps_its_id_and_its_account(database: Database, admin: asyncpg.Connection) -> None:
    """What it covers, its period and zone are the budget: new limits change nothing else; one left out is gone."""
    await put_budgets(database, "default", [MONTH, DAY])
    month, day = await of_default(database)
    await admin.execute("insert into budget_account (budget, begins) select id, now() from budget")
    await admin.execute("update budget set forced = array['throttle']")
    since = await admin.fetchval("select since_version from budget where id = $1", month.id)
    raised = Budget(0, "default", Period.MONTH, hard_nano=7, on_hard=Rung.REFUSE)
    other = Budget(0, "default", Period.MONTH, "Asia/Tokyo", hard_nano=7)
    version = (await put_budgets(database, "default", [raised, other])).version
    found = {one.timezone: one for one in await of_default(database)}
    assert set(found) == {"UTC", "Asia/Tokyo"}
    assert found["UTC"].id == month.id
    assert (found["UTC"].hard_nano, found["UTC"].on_hard) == (7, Rung.REFUSE)
    assert found["UTC"].forced == {Rung.THROTTLE}
    assert await admin.fetch("select budget from budget_account") == [(month.id,)]
    versions = dict(await admin.fetch("select id, since_version from budget"))
    assert versions == {month.id: since, found["Asia/Tokyo"].id: version}
    assert day.id not in versions


async def test_other_tenants_keep_theirs(database: Database, admin: asyncpg.Connection) -> None:
    """A list replaces one tenant's budgets alone; of a tenant that is not there none can be written."""
    await admin.execute("insert into tenant (id) values ('acme')")
    await put_budgets(database, "acme", [Budget(0, "acme", Period.TOTAL, hard_nano=1)])
    await put_budgets(database, "default", [MONTH])
    await put_budgets(database, "default", [])
    assert set((await read_settings(database)).budgets) == {"acme"}
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await put_budgets(database, "nobody", [MONTH])


async def test_the_use_of_a_period_is_all_that_was_spent_in_it(database: Database, admin: asyncpg.Connection) -> None:
    """Closed slices, live ones and what is not counted in yet are one sum; a period that is over is not shown."""
    await put_budgets(database, "default", [MONTH])
    (month,) = await of_default(database)
    assert await read_budget_use(database, "default") == {}
    old, present = await admin.fetch(
        "insert into budget_account (budget, begins, ends, spent_nano) values"
        " ($1, now() - interval '2 days', now() - interval '1 day', 99), ($1, now() - interval '1 day', null, 5)"
        " returning id",
        month.id,
    )
    await admin.executemany(
        "insert into budget_slice (account, process, spent_nano, reserved_nano) values ($1, $2, $3, $4)",
        [(present["id"], 1, 2, 3), (present["id"], 2, 4, 0), (old["id"], 1, 1000, 1000)],
    )
    await admin.execute(
        "insert into budget_delta values (1, $1, 20, 7), (1, $2, 500, 500)", [present["id"], old["id"]], [old["id"]]
    )
    use = (await read_budget_use(database, "default"))[month.id]
    assert (use.spent_nano, use.reserved_nano, use.ends, use.exhausted_at) == (31, 10, None, None)


async def test_a_board_has_them_by_tenant_and_tells_who_listens(database: Database) -> None:
    """A worker's board reads at its start and on news, knows at which version, and tells of each reading."""
    await put_budgets(database, "default", [MONTH])
    news, heard = LocalNews(), []
    board = BudgetBoard(database, news)
    board.on_change(lambda: heard.append(board.version))
    await board.start()
    assert [one.period for one in board.now["default"]] == [Period.MONTH]
    version = (await put_budgets(database, "default", [])).version
    news.publish("settings", "")
    await until(lambda: board.now == {})
    assert heard[-1] == board.version == version
    await board.stop()


def _settings(budget: Budget) -> tuple[object, ...]:
    return tuple(getattr(budget, name) for name in Budget.__dataclass_fields__ if name != "id")
