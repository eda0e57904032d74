"""The schema: brought up once, by whoever comes first; its invariants; its partitions; the rights of the processes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from record_kit import accept_all, clock, drop_database, ids, make_database, new_run, session, whole_cycle
from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.domain.ids import floor_at
from tollway.record import migrate as migrate_module
from tollway.record.database import Database
from tollway.record.migrate import Migration, latest_version, migrate, migrations, schema_version
from tollway.record.server import EmbeddedPostgres
from tollway.record.upkeep import Upkeep

PARTITIONS = (
    "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid "
    "join pg_class p on p.oid = i.inhparent where p.relkind = 'p' and c.relname like $1 order by 1"
)


@pytest.fixture
async def empty_url(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """An empty database, for its owner."""
    await make_database(postgres, "fresh")
    yield postgres.url_of("tollway", "fresh")
    await drop_database(postgres, "fresh")


async def test_a_fresh_database_comes_to_the_latest_schema_and_stays(empty_url: str) -> None:
    """The first migration applies everything, the second nothing."""
    assert await schema_version(empty_url) == 0
    assert await migrate(empty_url) == migrations()
    assert await schema_version(empty_url) == latest_version()
    assert await migrate(empty_url) == []
    async with session(empty_url) as owner:
        assert await owner.fetchval("select id from tenant") == "default"


async def test_migrators_at_once_take_turns(empty_url: str) -> None:
    """Of several migrators started together one does the work and the others find it done."""
    done = await asyncio.gather(*(migrate(empty_url) for _ in range(4)))
    assert sorted(len(applied) for applied in done) == [0, 0, 0, len(migrations())]


async def test_a_failed_migration_leaves_the_schema_as_it_was(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each migration is one transaction: what fails half-way is undone, and the next try goes on from there."""
    good, bad = (
        Migration(1, "pre", "one", "create table one (n int)"),
        Migration(2, "post", "two", "create table two ("),
    )
    monkeypatch.setattr(migrate_module, "migrations", lambda: [good, bad])
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await migrate(empty_url)
    assert await schema_version(empty_url) == 1
    mended = Migration(2, "post", "two", "create table two (n int)")
    monkeypatch.setattr(migrate_module, "migrations", lambda: [good, mended])
    assert await migrate(empty_url, ("pre",)) == []
    assert await migrate(empty_url) == [mended]


async def test_who_may_not_migrate_is_told_so(postgres: EmbeddedPostgres, empty_url: str) -> None:
    """The processes' role gets an error that names the remedy; an unreachable server is a server unavailable."""
    with pytest.raises(ConfigError, match="as the owner"):
        await migrate(postgres.url_of("tollway_app", "fresh"))
    for verb in (migrate, schema_version):
        with pytest.raises(DatabaseUnavailable):
            await verb("postgresql://tollway@127.0.0.1:1/none")  # type: ignore[operator]


async def test_the_processes_role_has_what_it_needs(database: Database, admin: asyncpg.Connection) -> None:
    """A whole cycle from accept to partitions runs as tollway_app, which may change no schema."""
    async with database.connection() as connection:
        assert await connection.fetchval("select current_user") == "tollway_app"
        assert await connection.fetchval("show statement_timeout") == "30s"
        assert await connection.fetchval("show idle_in_transaction_session_timeout") == "1min"
    assert len(await whole_cycle(database)) == 4
    assert await admin.fetchval("select count(*) from queue") == 0
    async with database.connection() as connection:
        for forbidden in ("drop table run", "alter table queue add column x int", "create table mine (n int)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)


async def test_the_roles_own_settings_bound_its_statements(database_url: str) -> None:
    """Also a session that sets nothing, as behind a pooler, has the role's time-outs."""
    async with session(database_url) as plain:
        shown = [await plain.fetchval(f"show {name}") for name in ("statement_timeout", "lock_timeout", "timezone")]
    assert shown == ["30s", "10s", "UTC"]


STEP = (
    "insert into step (run_id, n, path, name, attempt, fence, call_id, started_at, kind, state) "
    "select run_id, 1, '1', 'n', 1, 1, run_id, now(),"
)
BAD_ROWS = [
    "update queue set state = 1, worker = null",
    "update queue set worker = 5",
    "update queue set state = 9",
    "update queue set state = 2, gate = 'time'",
    "update run set state = 'running', ended_at = now()",
    "update run set state = 'succeeded'",
    "update run set ended_at = now()",
    "update run set state = 'failed', ended_at = now(), output = 'x'",
    "update run set state = 'succeeded', ended_at = now(), error_code = 'x'",
    "update run set budget_nano = -1",
    "update run set delay_s = -1",
    "update flow set state = 5",
    "insert into tenant (id) values ('../etc')",
    "insert into tenant (id, weight) values ('w', 0)",
    "insert into tenant (id, weight) values ('w', 'infinity')",
    "insert into tenant (id, weight) values ('w', 'nan')",
    "insert into api_key (id, tenant, name, hash, scopes) values ('k', 'default', 'n', 'short', '{read}')",
    "insert into api_key (id, tenant, name, hash, scopes) values ('k', 'default', 'n', sha256('x'), '{}')",
    "insert into api_key (id, tenant, name, hash, scopes) values ('k', 'default', 'n', sha256('x'), '{all}')",
    "insert into event (run_id, seq, type, at, actor_kind, actor_id) select run_id, 0, 'x', now(), 'k', 'k' from queue",
    "insert into event (run_id, seq, type, at, actor_kind, actor_id) select run_id, 1, 'x', now(), 'k', 'k' from queue",
    f"{STEP} 'llm', 'done' from queue",
    f"{STEP} 'magic', 'intent' from queue",
    f"{STEP} 'llm', 'maybe' from queue",
    "insert into settings_version values (false, 2)",
]


async def test_the_schema_refuses_what_cannot_be(database: Database, admin: asyncpg.Connection) -> None:
    """States that no run may be in are refused by the database itself."""
    await accept_all(database, [new_run()])
    for statement in BAD_ROWS:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await admin.execute(statement)


def day_of(name: str) -> date:
    """The day in a partition's name."""
    return datetime.strptime(name.rpartition("_")[2], "%Y%m%d").replace(tzinfo=UTC).date()


async def test_partitions_are_analysed_seldom_and_without_their_documents(
    database: Database, admin: asyncpg.Connection
) -> None:
    """Those of before the migration and those made since: by growth of a half, without what nobody looks up."""
    await admin.execute("select make_partitions(date '2031-05-17')")
    rows = await admin.fetch(
        "select p.noun, c.relname, c.reloptions, array("
        "select attname::text from pg_attribute where attrelid = c.oid and attstattarget = 0 order by 1) as spared"
        " from unnest(array['run', 'step', 'event', 'ledger']) as p (noun)"
        " join pg_inherits on inhparent = p.noun::regclass join pg_class c on c.oid = inhrelid"
    )
    spared = {"run": ["input", "output"], "step": ["error", "result"], "event": ["data"], "ledger": []}
    assert {row["relname"].rpartition("_")[2] for row in rows} >= {"20310517", "203105"}
    for row in rows:
        assert "autovacuum_analyze_scale_factor=0.5" in row["reloptions"], row["relname"]
        assert row["spared"] == spared[row["noun"]], row["relname"]


async def test_partitions_reach_two_weeks_ahead_without_gaps(database: Database, admin: asyncpg.Connection) -> None:
    """Yesterday to a fortnight from now has partitions, each bounded by its UTC day; making them again is nothing."""
    today = datetime.now(UTC).date()
    upkeep = Upkeep(database, 1)
    await asyncio.gather(upkeep.make_partitions(), upkeep.make_partitions())
    for noun in ("run", "step", "event"):
        days = [day_of(row[0]) for row in await admin.fetch(PARTITIONS, f"{noun}\\_%")]
        assert days == [days[0] + timedelta(days=n) for n in range(len(days))]
        assert days[0] < today
        assert days[-1] >= today + timedelta(days=14)
    midnight = datetime(today.year, today.month, today.day, tzinfo=UTC).timestamp()
    for at, day in ((midnight, today), (midnight - 0.001, today - timedelta(days=1)), (midnight + 86399.999, today)):
        await accept_all(database, [run := new_run(id=UUID(int=floor_at(at).int + (7 << 76)))])
        part = await admin.fetchval("select tableoid::regclass::text from run where id = $1", run.id)
        assert part == f"run_{day:%Y%m%d}"


async def old_run(database: Database, admin: asyncpg.Connection, days: int) -> tuple[UUID, str]:
    """A run begun so many days ago; the run and the stamp of its partition."""
    day = datetime.now(UTC).date() - timedelta(days=days)
    await admin.execute("select make_partitions($1)", day)
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()
    run = new_run(id=UUID(int=floor_at(at).int + (7 << 76) + ids.new().int % 2**32), created_at=at)
    await accept_all(database, [run])
    return run.id, f"{day:%Y%m%d}"


async def test_retention_drops_old_days_but_none_with_live_runs(database: Database, admin: asyncpg.Connection) -> None:
    """Days past their retention go, per noun; one in which a live run began stays until that has ended."""
    upkeep, keep = Upkeep(database, 1), {"run": 30, "step": 30, "event": 7, "ledger": 0}
    live, live_day = await old_run(database, admin, 40)
    ended, ended_day = await old_run(database, admin, 41)
    _, young_day = await old_run(database, admin, 10)
    await admin.execute("delete from queue where run_id = $1", ended)
    assert set(await upkeep.drop_partitions(keep)) == {f"{noun}_{ended_day}" for noun in ("run", "step", "event")}
    assert await admin.fetchval("select count(*) from run where id = $1", ended) == 0
    assert await admin.fetchval("select count(*) from event where run_id = $1", live) == 1
    await admin.execute("delete from queue")
    assert set(await upkeep.drop_partitions(keep)) == {
        *(f"{noun}_{live_day}" for noun in ("run", "step", "event")),
        f"event_{young_day}",
    }
    assert await upkeep.drop_partitions(keep) == []
    assert await upkeep.drop_partitions(dict.fromkeys(keep, 0)) == []


async def test_a_ledger_month_stays_while_an_older_run_lives(database: Database, admin: asyncpg.Connection) -> None:
    """A month of money goes only when it is old and every run begun before its end has ended."""
    _, stamp = await old_run(database, admin, 100)
    upkeep, keep = Upkeep(database, 1), {"ledger": 5}
    month = datetime.strptime(stamp[:6], "%Y%m").replace(tzinfo=UTC).date()
    after = (month + timedelta(days=32)).replace(day=1)
    await admin.execute("select make_partitions($1)", after)
    assert await upkeep.drop_partitions(keep) == []
    await admin.execute("delete from queue")
    assert await upkeep.drop_partitions(keep) == [f"ledger_{month:%Y%m}", f"ledger_{after:%Y%m}"]
    assert await admin.fetchval("select count(*) from pg_class where relname = $1", f"ledger_{clock_month()}") == 1


def clock_month() -> str:
    """This month as a stamp."""
    return datetime.fromtimestamp(clock.now(), UTC).strftime("%Y%m")


async def test_only_partitions_can_be_dropped(database: Database) -> None:
    """The lent right drops partitions of the four nouns, and whatever else is asked is refused or not there."""
    assert await database.value("drop_partition", "run", date(2001, 1, 1)) is True
    for noun in ("tenant", "run; drop table run", "queue"):
        async with database.connection() as connection:
            with pytest.raises(asyncpg.RaiseError):
                await connection.fetchval("select drop_partition($1, $2)", noun, date(2001, 1, 1))


async def test_a_partition_in_use_is_dropped_later(database: Database, admin: asyncpg.Connection) -> None:
    """While somebody reads the table, dropping gives up soon instead of holding everybody up; then it works."""
    _, stamp = await old_run(database, admin, 40)
    await admin.execute("delete from queue")
    upkeep = Upkeep(database, 1)
    async with admin.transaction():
        await admin.fetch("select count(*) from run")
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            await upkeep.drop_partitions({"run": 30})
    assert await upkeep.drop_partitions({"run": 30}) == [f"run_{stamp}"]


async def test_old_keys_and_dead_letters_are_forgotten(database: Database, admin: asyncpg.Connection) -> None:
    """Idempotency keys live for a day and an hour, dead letters exactly as long as their runs."""
    await accept_all(database, [new_run(idempotency_key=f"k{n}", body_hash=b"b") for n in range(3)])
    await admin.execute("update idempotency set created_at = now() - interval '26 hours' where key <> 'k0'")
    run, _ = await old_run(database, admin, 40)
    await admin.execute("delete from queue")
    await admin.execute(
        "insert into dead_letter select id, 'default', 'a', 'l', 'f', 'c', 'm', 0, now() - interval '35 days' from run"
    )
    upkeep = Upkeep(database, 1)
    await upkeep.forget_old()
    assert [row[0] for row in await admin.fetch("select key from idempotency")] == ["k0"]
    assert await admin.fetchval("select count(*) from dead_letter") == 4
    await upkeep.drop_partitions({"run": 30})
    await upkeep.forget_old()
    left = [row[0] for row in await admin.fetch("select run_id from dead_letter")]
    assert len(left) == 3
    assert run not in left


async def test_old_periods_of_budgets_are_forgotten(database: Database, admin: asyncpg.Connection) -> None:
    """The account of a period goes a week after its end, unless a process still spends of it; one without end stays."""
    await admin.execute("insert into budget (tenant, period, hard_nano, since_version) values ('default', 'day', 1, 1)")
    await admin.execute(
        "insert into budget_account (budget, begins, ends)"
        " select (select max(id) from budget), now() - make_interval(days => d + 1), now() - make_interval(days => d)"
        " from unnest(array[7, 9, 10]) d union all select (select max(id) from budget), '-infinity', null"
    )
    await admin.execute(
        "insert into budget_slice (account, process) select id, 1 from budget_account order by ends limit 1"
    )
    await Upkeep(database, 1).forget_old()
    left = await admin.fetch(
        "select extract(day from now() - ends)::int from budget_account order by ends desc nulls first"
    )
    assert [row[0] for row in left] == [None, 7, 10]
