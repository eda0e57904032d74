"""What was spent lately, on the real PostgreSQL: every entry of the ledger once, whatever the order of commits."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from record_kit import budget_with_period, clock, pay, session, until_blocked
from tollway.domain.ids import floor_at
from tollway.record.database import Database
from tollway.record.server import EmbeddedPostgres
from tollway.record.spending import TRANSACTIONS_MAX, Excess, Lately, SpendRecord, read_burns
from tollway.record.sql import query

HOUR_S = 3600


@pytest.fixture
def owner_url(postgres: EmbeddedPostgres, database_name: str) -> str:
    """The test's database, for its owner."""
    return postgres.url_of("tollway", database_name)


async def fold(database: Database) -> list[Excess]:
    """One look at the ledger."""
    async with database.connection() as connection, connection.transaction():
        return await SpendRecord(database).fold(connection, clock.now())


@asynccontextmanager
async def looking(database: Database) -> AsyncIterator[tuple[SpendRecord, asyncpg.Connection]]:
    """The record of spending, within a transaction."""
    async with database.connection() as connection, connection.transaction():
        yield SpendRecord(database), connection


async def summed(admin: asyncpg.Connection) -> dict[str, int]:
    """What was added up, by tenant."""
    rows = await admin.fetch("select tenant, sum(nano)::bigint as nano from spend_minute group by 1")
    return {row["tenant"]: row["nano"] for row in rows}


async def test_entries_are_added_up_once(database: Database, admin: asyncpg.Connection) -> None:
    """Money spent, unknown and beyond its reservation counts once; what cost nothing and what was before does not."""
    await fold(database)
    for kind, nano in (("settle", 10), ("unknown", 200), ("adjust", 3000), ("saved", 0), ("release", 70_000)):
        await pay(admin, nano, kind=kind)
    await pay(admin, 5, tenant="other")
    (excess,) = await fold(database)
    assert (excess.route, excess.calls, excess.nano) == ("sim", 1, 3000)
    assert await fold(database) == []
    assert await summed(admin) == {"acme": 3210, "other": 5}


async def test_transactions_that_commit_late_are_counted(
    database: Database, admin: asyncpg.Connection, owner_url: str
) -> None:
    """An entry counts when it is committed, however long after later ones were counted; one undone never does."""
    await fold(database)
    async with session(owner_url) as late, session(owner_url) as undone:
        held, lost = late.transaction(), undone.transaction()
        await held.start()
        await lost.start()
        await pay(late, 1)
        await pay(undone, 10)
        await pay(admin, 100)
        await fold(database)
        assert await summed(admin) == {"acme": 100}
        await pay(admin, 1000)
        await fold(database)
        await held.commit()
        await lost.rollback()
        await fold(database)
        await fold(database)
        assert await summed(admin) == {"acme": 1101}


async def test_random_orders_of_commits_lose_and_double_nothing(
    database: Database, admin: asyncpg.Connection, owner_url: str
) -> None:
    """Writers that commit or roll back when they like, and looks in between: the sum is that of the ledger."""
    await fold(database)
    chance = random.Random()

    async def write() -> None:
        async with session(owner_url) as connection:
            for _ in range(12):
                async with connection.transaction():
                    await pay(connection, chance.randrange(1, 1000), tenant=chance.choice(("a", "b")))
                    await asyncio.sleep(chance.random() / 100)
                    if chance.random() < 0.3:
                        await connection.execute("select set_config('t.x', '1', true)")

    writers = [asyncio.create_task(write()) for _ in range(6)]
    while not all(writer.done() for writer in writers):
        await fold(database)
    await asyncio.gather(*writers)
    await fold(database)
    rows = await admin.fetch("select tenant, sum(nano)::bigint as nano from ledger group by 1")
    assert await summed(admin) == {row["tenant"]: row["nano"] for row in rows}


async def test_a_long_pause_is_made_up_for_in_parts(database: Database, admin: asyncpg.Connection) -> None:
    """After more transactions than one look goes through, further looks find the rest, each entry once."""
    await fold(database)
    await pay(admin, 1)
    await admin.execute(
        f"do $$ begin for n in 1..{TRANSACTIONS_MAX} loop perform pg_current_xact_id(); commit; end loop; end $$"
    )
    await pay(admin, 10)
    await fold(database)
    assert await summed(admin) == {"acme": 1}
    await pay(admin, 100)
    await fold(database)
    await fold(database)
    assert await summed(admin) == {"acme": 111}


async def test_a_look_that_fails_is_made_again(database: Database, admin: asyncpg.Connection) -> None:
    """What a look added up is undone with its transaction, and counted by the next."""
    await fold(database)
    await pay(admin, 7)

    class Cut(Exception):
        pass

    async def cut_short() -> None:
        async with looking(database) as (spend, connection):
            await spend.fold(connection, clock.now())
            raise Cut

    with pytest.raises(Cut):
        await cut_short()
    assert await summed(admin) == {}
    await fold(database)
    assert await summed(admin) == {"acme": 7}


async def test_two_keepers_count_once(database: Database, admin: asyncpg.Connection) -> None:
    """A second look waits for the first, and finds nothing left."""
    await fold(database)
    await pay(admin, 7)
    async with looking(database) as (spend, connection):
        await spend.fold(connection, clock.now())
        second = asyncio.create_task(fold(database))
        await until_blocked(admin)
    await second
    assert await summed(admin) == {"acme": 7}


async def test_a_restored_record_is_counted_from_now_on(database: Database, admin: asyncpg.Connection) -> None:
    """Numbers of another cluster's transactions mean nothing: entries that bear them wait, the cursor begins anew."""
    await fold(database)
    await pay(admin, 7)
    await admin.execute("update ledger set xid = xid + 1000000000")
    await fold(database)
    assert await summed(admin) == {}
    await admin.execute("update spend_cursor set seen = '2000000000:2000000000:'")
    await fold(database)
    await pay(admin, 5)
    await fold(database)
    assert await summed(admin) == {"acme": 5}


async def test_the_ledger_is_found_by_its_newest_rows(database: Database, admin: asyncpg.Connection) -> None:
    """A look reads the ledger by the BRIN index of transactions, and prunes partitions of calls begun long ago."""
    await admin.execute("select make_partitions(current_date - 90)")
    await admin.execute(
        "insert into ledger (call_id, kind, tenant, key_id, route, nano, at)"
        " select uuidv7(), 'settle', 't' || g % 9, 'k', 'sim', 7, now() from generate_series(1, 20000) g"
    )
    await admin.execute("analyze ledger")
    seen = await admin.fetchval("select pg_current_snapshot()::text")
    await admin.execute("set plan_cache_mode = force_generic_plan")
    await admin.execute("set enable_seqscan = off")
    await admin.execute(f"prepare folding (text, uuid, bigint) as {query('fold_spend')}")
    oldest = floor_at(clock.now() - 86_400)
    plan = "\n".join(
        row[0] for row in await admin.fetch(f"explain (analyze) execute folding('{seen}', '{oldest}', 1000)")
    )
    assert re.search(r"Bitmap Index Scan on ledger_\d+_xid_idx", plan), plan
    assert "Seq Scan on ledger" not in plan
    assert "Subplans Removed" in plan


async def test_hours_are_closed_and_minutes_forgotten(database: Database, admin: asyncpg.Connection) -> None:
    """Whole hours are added up from minutes, late entries too; minutes go three hours later, hours after two weeks."""
    await fold(database)
    hour = clock.now() // HOUR_S * HOUR_S - HOUR_S
    await pay(admin, 10, at=hour + 5)
    await pay(admin, 20, at=hour + 1800)
    await pay(admin, 40, at=hour + HOUR_S + 1)
    await fold(database)
    number = int(hour // HOUR_S)
    async with looking(database) as (spend, connection):
        await spend.close_hours(connection, hour + HOUR_S)
        assert await spend.past(connection, ["acme", "nobody"], number + 1) == {"acme": {number: 30}, "nobody": {}}
        assert await spend.past(connection, ["acme"], number) == {"acme": {}}
    await pay(admin, 100, at=hour + 1801)
    await fold(database)
    async with looking(database) as (spend, connection):
        await spend.close_hours(connection, hour + 2 * HOUR_S)
        assert (await spend.past(connection, ["acme"], number + 1))["acme"] == {number: 130}
        await spend.close_hours(connection, hour + 5 * HOUR_S)
    assert await summed(admin) == {}
    async with looking(database) as (spend, connection):
        assert (await spend.past(connection, ["acme"], number + 2))["acme"] == {number: 130, number + 1: 40}
    await SpendRecord(database).forget_old(hour + 15 * 86_400)
    assert await admin.fetchval("select count(*) from spend_hour") == 2
    await SpendRecord(database).forget_old(hour + 15 * 86_400 + HOUR_S + 1)
    assert await admin.fetchval("select count(*) from spend_hour") == 0


async def test_what_was_spent_lately_is_told_of_who_spent_much(database: Database, admin: asyncpg.Connection) -> None:
    """Tenants that spent the least sum in the longer time are told of, with both times; smaller ones only if named."""
    await fold(database)
    minute = clock.now() // 60 * 60
    for tenant, nano, ago_s in (("big", 70, 30), ("big", 50, 1200), ("big", 999, 4000), ("small", 5, 30)):
        await pay(admin, nano, tenant=tenant, at=minute - ago_s)
    await fold(database)
    async with looking(database) as (spend, connection):
        windows = (minute - 600, minute - 3600)
        assert await spend.lately(connection, windows, 100, []) == {"big": Lately(70, 120)}
        named = await spend.lately(connection, windows, 100, ["small", "none"])
        assert named == {"big": Lately(70, 120), "small": Lately(5, 5)}


async def test_the_periods_of_budgets_are_read_with_their_burn(database: Database, admin: asyncpg.Connection) -> None:
    """What live slices and deltas spent counts; periods over or to come are left out; a burn kept comes back."""
    account = await budget_with_period(admin, hard_nano=1000)
    await admin.execute("update budget_account set spent_nano = 40 where id = $1", account)
    await admin.execute(
        "insert into budget_slice (account, process, granted_nano, spent_nano) values ($1, 1, 50, 20), ($1, 2, 5, 3)",
        account,
    )
    await admin.execute("insert into budget_delta values (1, array[$1, 999]::bigint[], 7, -7)", account)
    async with looking(database) as (spend, connection):
        (period,) = await spend.periods(connection)
        assert (period.account, period.tenant, period.hard_nano, period.spent_nano) == (account, "default", 1000, 70)
        assert period.exhausted is None
        assert period.burn is None
        assert period.ends_at is not None
        burn = (100.0, 1, 200.5, 63, 0.25)
        await spend.keep_burns(connection, {account: burn})
        await spend.keep_burns(connection, {account: burn})
        (period,) = await spend.periods(connection)
        assert period.burn == burn
    assert await read_burns(database, "default") == {period.budget: burn}
    assert await read_burns(database, "other") == {}
    await SpendRecord(database).forget_old(clock.now())
    assert await admin.fetchval("select count(*) from budget_burn") == 1
    await admin.execute("update budget_account set ends = now() - interval '1 s' where id = $1", account)
    async with looking(database) as (spend, connection):
        assert await spend.periods(connection) == []
    await SpendRecord(database).forget_old(clock.now())
    assert await admin.fetchval("select count(*) from budget_burn") == 0
