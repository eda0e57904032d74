"""Rungs by hand, on record: replaced as a whole, told by the settings' version, and parked runs look again."""

import asyncpg
import pytest

from record_kit import accept_all, new_run
from tollway.domain.budgets import Rung
from tollway.record.database import Database
from tollway.record.rungs import ByHand, put_rungs, read_rungs
from tollway.record.settings_sync import read_settings


@pytest.fixture
async def budget(admin: asyncpg.Connection) -> int:
    """A budget of the default tenant."""
    return int(
        await admin.fetchval(
            "insert into budget (tenant, period, since_version) values ('default', 'day', 1) returning id"
        )
    )


async def test_they_are_replaced_and_the_version_rises(database: Database, budget: int) -> None:
    """What was there is gone, the names come mildest first, and each change is a version of its own."""
    assert await read_rungs(database, "default", budget) == {
        "id": str(budget),
        "tenant": "default",
        "forced": [],
        "lifted": [],
    }
    before = (await read_settings(database)).version
    put = await put_rungs(database, "default", budget, ByHand([Rung.PARK, Rung.ALERT, Rung.PARK], [Rung.THROTTLE]))
    assert put is not None
    assert (put.document["forced"], put.document["lifted"]) == (["alert", "park"], ["throttle"])
    assert put.document == await read_rungs(database, "default", budget)
    assert put.version == before + 1 == (await read_settings(database)).version
    again = await put_rungs(database, "default", budget, ByHand([], []))
    assert again is not None
    assert (again.document["forced"], again.document["lifted"], again.version) == ([], [], before + 2)


async def test_another_tenants_budget_is_none(database: Database, budget: int) -> None:
    """Nothing is written, and no version is made, for a budget that is not there."""
    before = (await read_settings(database)).version
    for tenant, one in (("other", budget), ("default", budget + 1)):
        assert await read_rungs(database, tenant, one) is None
        assert await put_rungs(database, tenant, one, ByHand([Rung.PARK], [])) is None
    assert (await read_settings(database)).version == before


async def test_parked_runs_look_again(database: Database, admin: asyncpg.Connection, budget: int) -> None:
    """P8: whoever waits behind the budget is due at once, whoever waits behind another thing is not."""
    runs = [new_run(), new_run()]
    await accept_all(database, runs)
    for run, gate in zip(runs, (f"budget:{budget}", "budget:999"), strict=True):
        await admin.execute(
            "update queue set gate = $2, opens_at = now() + interval '1 hour' where run_id = $1", run.id, gate
        )
    await put_rungs(database, "default", budget, ByHand([], [Rung.PARK]))
    due = await admin.fetch("select gate from queue where opens_at <= clock_timestamp()")
    assert [row["gate"] for row in due] == [f"budget:{budget}"]
