"""What was spent before a budget was set: by the sums of usage what it says by the ledger, entry by entry."""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from record_kit import clock
from tollway.domain.budgets import Budget, Period
from tollway.domain.ids import floor_at
from tollway.record.budgets import put_budgets
from tollway.record.database import Database
from tollway.record.rollup import Rollup
from tollway.spend.periods import span
from usage_kit import count_all, enter

_BY_THE_LEDGER = """
select coalesce(sum(l.nano), 0)::bigint from ledger l join budget b on b.id = $1
where l.call_id >= uuid7_floor(to_timestamp($2::float8)) and l.tenant = b.tenant
    and (b.agent is null or coalesce(l.agent, l.key_id) = b.agent) and (b.lane is null or l.lane = b.lane)
    and (b.task_type is null or l.task_type = b.task_type) and (b.key_id is null or l.key_id = b.key_id)"""
_BY_USAGE = "select paid_since($1, to_timestamp($2::float8))"
BUDGETS = [
    Budget(0, "default", period, zone, hard_nano=1, **covered)
    for period, zone in ((Period.WEEK, "UTC"), (Period.MONTH, "Pacific/Auckland"), (Period.TOTAL, "UTC"))
    for covered in ({}, {"agent": "triage"}, {"agent": "k1"}, {"lane": "batch"}, {"task_type": "t"}, {"key": "k2"})
]


async def pay(admin: asyncpg.Connection, chance: random.Random, at: float) -> None:
    """An entry of a call of this moment."""
    kind = chance.choice(["settle", "unknown", "adjust", "release", "saved"])
    await enter(
        admin,
        call_id=UUID(int=floor_at(at).int | chance.getrandbits(70)),
        kind=kind,
        tenant=chance.choice(["default", "default", "other"]),
        agent=chance.choice(["triage", "other", None]),
        lane=chance.choice(["batch", "standard"]),
        key_id=chance.choice(["k1", "k2"]),
        task_type=chance.choice(["t", None]),
        nano=0 if kind in ("release", "saved") else chance.randrange(1000),
        at=datetime.fromtimestamp(at, UTC),
    )


@pytest.mark.parametrize("seed", range(3))
async def test_the_past_is_the_same_by_usage_and_by_the_ledger(
    database: Database, admin: asyncpg.Connection, seed: int
) -> None:
    """P4: whatever of it is counted yet, for every owner and period; as well where usage is of another database."""
    chance, now = random.Random(seed), clock.now()
    for day in range(35):
        await admin.execute("select make_partitions($1::date)", datetime.fromtimestamp(now, UTC) - timedelta(days=day))
    await put_budgets(database, "default", BUDGETS)
    rollup = Rollup(database)
    for counted in (False, True, True):
        for _ in range(40):
            await pay(admin, chance, now - chance.random() * 30 * 86_400)
        if counted:
            await count_all(rollup)
            for _ in range(5):
                await pay(admin, chance, now - chance.random() * 86_400)
        await agree(admin, now)
    await admin.execute("update usage_cursor set snapshot = '999999999:999999999:'")
    await agree(admin, now)


async def agree(admin: asyncpg.Connection, now: float) -> None:
    """Both ways find the same for the present period of every budget."""
    for row in await admin.fetch("select id, period, timezone from budget"):
        begins, _ = span(Period(row["period"]), row["timezone"], now)
        expected = await admin.fetchval(_BY_THE_LEDGER, row["id"], begins)
        assert await admin.fetchval(_BY_USAGE, row["id"], begins) == expected
