"""Group commit on a real table: batching, bad rows, lost connections, cancelled callers, bounds."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from record_kit import until_blocked
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import DatabaseUnavailable
from tollway.record.database import Database, DatabaseOptions
from tollway.record.group_commit import FlushOptions, GroupCommit

INSERT = "insert into item select * from unnest($1::int[], $2::int[]) on conflict (id) do nothing"


class Store:
    """Writes (id, value) rows to a table that takes each id once and only values from 1 to 1000."""

    def __init__(self, database: Database, options: FlushOptions | None = None) -> None:
        self._database = database
        self.batches: list[int] = []
        self.flying = self.flying_most = 0
        self.commits: GroupCommit[tuple[int, int], int] = GroupCommit(self.write, options)

    async def write(self, rows: Sequence[tuple[int, int]]) -> list[int | Exception]:
        """One statement a batch."""
        self.batches.append(len(rows))
        self.flying += 1
        self.flying_most = max(self.flying_most, self.flying)
        try:
            async with self._database.connection() as connection:
                await connection.execute(INSERT, [row[0] for row in rows], [row[1] for row in rows])
        finally:
            self.flying -= 1
        return [row[0] for row in rows]


@pytest.fixture
async def table(admin: asyncpg.Connection) -> asyncpg.Connection:
    """A table to write to."""
    await admin.execute("create table item (id int primary key, value int not null check (value between 1 and 1000))")
    await admin.execute("grant all on item to tollway_app")
    return admin


@pytest.fixture
async def store(database: Database, table: asyncpg.Connection) -> Store:
    """A store with the usual bounds."""
    return Store(database)


async def test_what_comes_at_once_shares_a_flush(store: Store, table: asyncpg.Connection) -> None:
    """Rows handed in within one turn of the loop travel in one statement, and each caller gets its own result."""
    results = await asyncio.gather(*(store.commits.put((n, 1)) for n in range(150)))
    assert results == list(range(150))
    assert store.batches == [150]
    assert (store.commits.flushes, store.commits.rows) == (1, 150)
    assert await table.fetchval("select count(*) from item") == 150


async def test_bounds_of_rows_and_flights(store: Store, table: asyncpg.Connection) -> None:
    """A flush takes at most 200 rows and at most two are under way, however much waits."""

    async def caller(start: int) -> None:
        for n in range(start, start + 10):
            await store.commits.put((n, 1))

    await asyncio.gather(*(caller(n * 10) for n in range(900)))
    assert max(store.batches) == 200
    assert store.flying_most == 2
    assert len(store.commits) == 0
    assert await table.fetchval("select count(*) from item") == 9000


@pytest.mark.parametrize("bad", [None, 5000, 2**40], ids=["23502 not null", "23514 check", "22000 not an int4"])
async def test_a_bad_row_fails_its_own_caller_only(store: Store, table: asyncpg.Connection, bad: int | None) -> None:
    """A value the database refuses reaches its caller as that error; everything beside it is written."""
    futures = [store.commits.put((n, bad if n in (3, 77) else 1)) for n in range(100)]  # type: ignore[arg-type]
    results = await asyncio.gather(*futures, return_exceptions=True)
    for n, result in enumerate(results):
        if n in (3, 77):
            assert isinstance(result, asyncpg.PostgresError)
            assert str(result.sqlstate)[:2] in ("22", "23")
        else:
            assert result == n
    assert await table.fetchval("select count(*) from item") == 98


async def test_an_error_of_the_statement_itself_is_everybodys(store: Store, table: asyncpg.Connection) -> None:
    """What is no row's fault is told to all callers at once, without halving or repeating."""
    await table.execute("alter table item rename to gone")
    results = await asyncio.gather(*(store.commits.put((n, 1)) for n in range(50)), return_exceptions=True)
    assert all(isinstance(result, asyncpg.UndefinedTableError) for result in results)
    assert store.batches == [50]


async def test_a_result_that_is_an_exception_is_its_callers() -> None:
    """`write` may judge each row: an exception in its answer is raised to that caller."""

    async def write(rows: Sequence[int]) -> list[int | Exception]:
        return [KeyError(row) if row % 2 else row for row in rows]

    commits: GroupCommit[int, int] = GroupCommit(write)
    good, bad = commits.put(2), commits.put(3)
    assert await good == 2
    with pytest.raises(KeyError):
        await bad


async def test_lost_connections_are_made_good(store: Store, table: asyncpg.Connection) -> None:
    """Backends terminated under load cost no caller anything: batches are sent again, and every row stands once."""

    async def caller(start: int) -> list[int]:
        return [await store.commits.put((n, 1)) for n in range(start, start + 60)]

    async def terminator() -> int:
        ended = 0
        for _ in range(15):
            ended += len(
                await table.fetch(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where usename = 'tollway_app' and datname = current_database()"
                )
            )
            await asyncio.sleep(0.03)
        return ended

    killing = asyncio.create_task(terminator())
    results = await asyncio.gather(*(caller(n * 60) for n in range(50)))
    assert await killing > 0
    assert sorted(n for part in results for n in part) == list(range(3000))
    assert await table.fetchval("select count(*) from item") == 3000


async def test_patience_ends(database_url: str) -> None:
    """While the database cannot be reached callers wait for `patience_s`, then are told so; so is who comes later."""
    closed = Database(DatabaseOptions(database_url), AnchoredClock())
    store = Store(closed, FlushOptions(patience_s=0.2))
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            await store.commits.put((1, 1))
    assert len(store.batches) > 2


async def test_who_lost_a_deadlock_goes_again(store: Store, table: asyncpg.Connection, database_url: str) -> None:
    """A deadlock's victim is not its callers' fault: the batch is sent again."""
    await table.execute("set deadlock_timeout = '1min'")
    async with table.transaction():
        await table.execute("insert into item values (2, 2)")
        both = asyncio.gather(store.commits.put((1, 1)), store.commits.put((2, 2)))
        await until_blocked(table)
        await table.execute("insert into item values (1, 1) on conflict do nothing")
    assert await both == [1, 2]
    assert len(store.batches) > 1


async def test_cancelling_one_caller_leaves_the_others(store: Store, table: asyncpg.Connection) -> None:
    """A caller that goes away, before or during the flush, disturbs nobody."""
    before, during, other = store.commits.put((1, 1)), store.commits.put((2, 1)), store.commits.put((3, 1))
    before.cancel()
    async with table.transaction():
        await table.execute("lock table item")
        await until_blocked(table)
        during.cancel()
        late = store.commits.put((4, 1))
    assert await other == 3
    assert await late == 4
    assert {row[0] for row in await table.fetch("select id from item")} >= {3, 4}


async def test_drain_waits_for_everything(store: Store, table: asyncpg.Connection) -> None:
    """After `drain` whatever was handed in is written."""
    futures = [store.commits.put((n, 1)) for n in range(1000)]
    await store.commits.drain()
    assert all(future.done() for future in futures)
    assert await table.fetchval("select count(*) from item") == 1000


async def test_a_cancelled_flight_tells_its_callers(store: Store, table: asyncpg.Connection) -> None:
    """When the loop is torn down under a flush, its callers learn that the record could not be reached."""
    async with table.transaction():
        await table.execute("lock table item")
        future = store.commits.put((1, 1))
        await until_blocked(table)
        for task in list(store.commits._flights):
            task.cancel()
        with pytest.raises(DatabaseUnavailable):
            await future


@pytest.mark.parametrize("flights", [1, 2, 3])
async def test_a_row_handed_in_as_flights_end_is_not_forgotten(flights: int) -> None:
    """Rows put in the very turn of the loop in which the last flights end are flushed all the same."""
    gate = asyncio.Event()

    async def write(rows: Sequence[int]) -> list[int | Exception]:
        await gate.wait()
        return list(rows)

    commits: GroupCommit[int, int] = GroupCommit(write, FlushOptions(rows_max=1, flights_max=flights))

    async def one_after_the_other() -> list[int]:
        return [await commits.put(1), await commits.put(2)]

    first = asyncio.ensure_future(one_after_the_other())
    await asyncio.sleep(0)
    others = [commits.put(10 + n) for n in range(flights - 1)]
    while len(commits._flights) < flights or len(commits):
        await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(5):
        assert await first == [1, 2]
        assert await asyncio.gather(*others) == [10 + n for n in range(flights - 1)]
