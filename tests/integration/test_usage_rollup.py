"""Usage is the ledger, summed up: each entry and ended run once, whatever commits late, is undone or killed."""

import asyncio
import json
import random
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest

from record_kit import clock, session, until_blocked
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.domain.snapshots import Stride, read_snapshot
from tollway.domain.usage import bucket_of
from tollway.record.database import Database, DatabaseOptions
from tollway.record.rollup import Rollup
from tollway.record.spending import SpendRecord
from tollway.record.upkeep import Upkeep
from tollway.record.usage import UsageQuery, read_usage, read_usage_runs
from tollway.runtime.rollup import REST_IDLE_S, UsageRollup
from usage_kit import by_the_ledger, by_usage, count_all, end_run, enter, months_agree, totals_agree


def days_ago(days: int) -> datetime:
    """Noon of a day before today."""
    today = datetime.fromtimestamp(clock.now(), UTC).replace(hour=12)
    return today - timedelta(days=days)


async def runs_of(admin: asyncpg.Connection, part: str) -> dict[tuple[str, ...], int]:
    """Runs of a part by what tells them apart."""
    rows = await admin.fetch(
        "select tier, route, step, runs from usage_run where part = $1 and span = 'day' and detail = 'whole'", part
    )
    return {tuple(name for name in row[:3] if name): row[3] for row in rows}


async def test_every_kind_of_entry_is_counted_for_what_it_is(database: Database, admin: asyncpg.Connection) -> None:
    """Settled and adjusted money is cost, an unknown stands apart, a saved answer saves, a release is nothing. (P10)"""
    call = await enter(admin, nano=100, saved_prompt_nano=7, saved_shift_nano=50)
    await enter(admin, call_id=call, kind="adjust", nano=20, input_tokens=0, output_tokens=0, cached_tokens=0)
    await enter(admin, kind="unknown", nano=900, input_tokens=0, output_tokens=0, cached_tokens=0)
    await enter(admin, kind="release", nano=0)
    for cached, saved in (("exact", 30), ("flight", 4)):
        await enter(admin, kind="saved", nano=0, cached=cached, saved_nano=saved, input_tokens=0, output_tokens=0)
    await enter(admin, agent=None, tier=None, route=None, step=None, nano=5, input_tokens=0, output_tokens=0)
    await count_all(Rollup(database))
    found = {
        (row["agent"], row["route"]): dict(row)
        for row in await admin.fetch("select * from usage_call where detail = 'owner'")
    }
    row = found["triage", "r1"]
    assert (row["calls"], row["hits"], row["cost_nano"], row["unknown_nano"]) == (2, 2, 120, 900)
    assert (row["saved_cache_nano"], row["saved_flight_nano"]) == (30, 4)
    assert (row["saved_prompt_nano"], row["saved_shift_nano"]) == (7, 50)
    assert (found["", ""]["calls"], found["", ""]["cost_nano"]) == (0, 5)
    assert await by_usage(admin) == await by_the_ledger(admin)


async def test_names_of_any_length_are_counted(database: Database, admin: asyncpg.Connection) -> None:
    """Steps and task types of any length are counted, each apart; a task type that a budget may name is kept. (P10)"""
    words = [random.randbytes(8000).hex(), random.randbytes(8000).hex()]
    widest = "".join(chr(0x1F300 + random.randrange(256)) for _ in range(255))
    for word in words:
        run = await end_run(admin, metadata=json.dumps({"task_type": word}))
        await enter(admin, run_id=run, step=word, task_type=word)
    run = await end_run(admin, agent=widest, metadata=json.dumps({"task_type": widest}))
    longest = {"tenant": "t" * 64, "lane": "l" * 32, "tier": "t" * 128, "route": "r" * 128, "key_id": str(run)}
    await enter(admin, run_id=run, agent=widest, step=widest, task_type=widest, **longest)
    await count_all(Rollup(database))
    for table in ("usage_call", "usage_run"):
        sums = f"select distinct task_type from {table} where detail = 'owner' and span = 'day' order by 1"
        kept = [row[0] for row in await admin.fetch(sums)]
        assert sorted(name[:20] for name in kept) == sorted([*(word[:20] for word in words), widest[:20]])
        assert widest in kept
    assert len(await admin.fetch("select from usage_call where detail = 'owner' and span = 'day'")) == 3


async def test_what_commits_late_is_counted_when_it_does(database: Database, admin: asyncpg.Connection) -> None:
    """An entry whose transaction began first and ends last is counted once, and so is all that overtook it. (P10)"""
    rollup = Rollup(database)
    async with session(database.options.url) as slow:
        late = slow.transaction()
        await late.start()
        await enter(slow, nano=1)
        await end_run(slow, cost_nano=1)
        for nano in (10, 100):
            await enter(admin, nano=nano)
            await end_run(admin, cost_nano=nano)
            await count_all(rollup)
        assert await admin.fetchval("select cost_nano from usage_call where span = 'day' and detail = 'owner'") == 110
        await late.commit()
    await count_all(rollup)
    assert await admin.fetchval("select cost_nano from usage_call where span = 'day' and detail = 'owner'") == 111
    assert (
        await admin.fetchval("select cost_nano from usage_run where part = 'run' and span = 'day' and detail = 'owner'")
        == 111
    )
    await count_all(Rollup(database))
    assert await by_usage(admin) == await by_the_ledger(admin)


async def test_what_is_rolled_back_is_never_counted(database: Database, admin: asyncpg.Connection) -> None:
    """Entries that are undone, the gap they leave, and entries around them: only what stands counts. (P10)"""
    rollup = Rollup(database)
    async with session(database.options.url) as other:
        undone = other.transaction()
        await undone.start()
        await enter(other, nano=1)
        await end_run(other)
        await enter(admin, nano=10)
        await count_all(rollup)
        await undone.rollback()
    await enter(admin, nano=100)
    await count_all(rollup)
    assert await admin.fetchval("select cost_nano from usage_call where span = 'day' and detail = 'owner'") == 110
    assert await admin.fetchval("select count(*) from usage_run") == 0


async def test_of_two_at_once_one_counts(database: Database, database_url: str, admin: asyncpg.Connection) -> None:
    """Two keepers that count at the same time count nothing twice, and neither waits for the other. (P10)"""
    other = Database(DatabaseOptions(database_url), AnchoredClock())
    await other.start()
    try:
        for _ in range(10):
            await asyncio.gather(*(enter_apart(database_url, n) for n in range(3)))
            await asyncio.gather(Rollup(database).count(), Rollup(other).count(), Rollup(database).count())
        async with session(database_url) as holder, holder.transaction():
            await holder.fetch("select from usage_cursor for update")
            await enter(admin)
            assert not (await Rollup(other).count()).anything
        await count_all(Rollup(database))
    finally:
        await other.stop()
    assert await by_usage(admin) == await by_the_ledger(admin)


async def enter_apart(url: str, nano: int) -> None:
    """An entry from a session of its own."""
    async with session(url) as own:
        await enter(own, nano=nano)


async def test_a_pass_that_is_killed_leaves_nothing(database: Database, admin: asyncpg.Connection) -> None:
    """A keeper killed in the midst of a pass has counted nothing; the next one counts it all. (P1, P10)"""
    await enter(admin)
    await end_run(admin)
    async with admin.transaction():
        await admin.execute("lock table usage_run in access exclusive mode")
        counting = asyncio.ensure_future(Rollup(database).count())
        async with session(database.options.url) as looking:
            await until_blocked(looking)
        await admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock' "
            "and datname = current_database()"
        )
        with pytest.raises(DatabaseUnavailable):
            await counting
    assert await by_usage(admin) == {}
    await count_all(Rollup(database))
    assert await by_usage(admin) == await by_the_ledger(admin) != {}


async def test_far_behind_it_goes_in_bounded_steps(database: Database, admin: asyncpg.Connection) -> None:
    """Passes that may look at few transactions each come to the same sums, one after another, late commits included."""
    async with session(database.options.url) as slow:
        late = slow.transaction()
        await late.start()
        await enter(slow, nano=7)
        for n in range(40):
            await enter(admin, nano=n)
            await end_run(admin, cost_nano=n)
        start = read_snapshot(await admin.fetchval("select pg_current_snapshot()::text")).xmax - 70
        await admin.execute("update usage_cursor set snapshot = $1::text::pg_snapshot", f"{start}:{start}:")
        rollup, passes = Rollup(database, Stride(8)), 0
        counted = await rollup.count()
        assert counted.behind
        while (await rollup.count()).anything:
            passes += 1
        assert passes >= 2
        await late.commit()
    await count_all(rollup)
    by_hand = await admin.fetchval("select sum(nano) from ledger where xid >= $1 or nano = 7", start)
    assert (
        await admin.fetchval("select sum(cost_nano) from usage_call where span = 'day' and detail = 'owner'") == by_hand
    )


async def test_what_fails_is_tried_again_with_less(database: Database, admin: asyncpg.Connection) -> None:
    """After passes that failed, as by taking too long, a pass counts little, and by and by all is counted. (P10)"""
    rollup = Rollup(database, Stride(1 << 40))
    for _ in range(20):
        await enter(admin)
    await admin.execute("alter table usage_run rename to elsewhere")
    for _ in range(14):
        with pytest.raises(asyncpg.UndefinedTableError):
            await rollup.count()
    await admin.execute("alter table elsewhere rename to usage_run")
    counted = await rollup.count()
    assert counted.behind
    assert counted.entries <= 1
    await count_all(rollup)
    assert await by_usage(admin) == await by_the_ledger(admin) != {}


@pytest.mark.parametrize("seed", range(3))
async def test_it_is_the_ledger_whatever_happens_at_once(
    database: Database, database_url: str, admin: asyncpg.Connection, seed: int
) -> None:
    """Random transactions that commit or are undone, while two count all the time: the sums agree. (P10)"""
    luck = random.Random(seed)
    going = True

    async def write(own: asyncpg.Connection) -> None:
        for _ in range(12):
            change = own.transaction()
            await change.start()
            for _ in range(luck.randrange(1, 4)):
                run = await end_run(own, agent=luck.choice("ab"), at=days_ago(luck.randrange(40)))
                kind = luck.choice(("settle", "unknown", "release", "saved", "adjust"))
                at, nano = days_ago(luck.randrange(40)), 0 if kind == "saved" else luck.randrange(1000)
                cached = luck.choice(("exact", "flight")) if kind == "saved" else None
                await enter(own, kind=kind, run_id=run, agent=luck.choice("ab"), nano=nano, at=at, cached=cached)
                await asyncio.sleep(luck.random() / 200)
            await (change.commit() if luck.random() < 0.8 else change.rollback())

    async def count(rollup: Rollup) -> None:
        while going:
            await rollup.count()

    async with session(database_url) as one, session(database_url) as two, session(database_url) as three:
        counting = [asyncio.create_task(count(Rollup(database, Stride(4)))) for _ in range(2)]
        await asyncio.gather(write(one), write(two), write(three))
        going = False
        await asyncio.gather(*counting)
    await count_all(Rollup(database))
    assert await by_usage(admin) == await by_the_ledger(admin)
    assert await months_agree(admin)
    assert await totals_agree(admin)
    runs = await admin.fetchval(
        "select sum(runs) from usage_run where part = 'run' and span = 'day' and detail = 'owner'"
    )
    assert runs == await admin.fetchval("select count(*) from run where state is not null")


async def test_a_run_counts_once_in_each_thing_it_called(database: Database, admin: asyncpg.Connection) -> None:
    """A run of many calls is one run of each tier, route, step and pair that it called, and one in all."""
    run = await end_run(admin, llm_calls=4)
    for tier, route, step in (("fast", "f1", "a"), ("fast", "f2", "a"), ("fast", "f1", "b"), ("best", "b1", "b")):
        await enter(admin, run_id=run, tier=tier, route=route, step=step)
    await enter(admin, run_id=run, kind="release", tier="best", route="b2", step="c")
    await end_run(admin, llm_calls=0, cost_nano=0)
    await end_run(admin, state=None)
    await count_all(Rollup(database))
    assert await runs_of(admin, "run") == {(): 2}
    assert await runs_of(admin, "tier") == {("fast",): 1, ("best",): 1}
    assert await runs_of(admin, "route") == {("fast", "f1"): 1, ("fast", "f2"): 1, ("best", "b1"): 1}
    assert await runs_of(admin, "step") == {("a",): 1, ("b",): 1}
    assert await runs_of(admin, "tier step") == {("fast", "a"): 1, ("fast", "b"): 1, ("best", "b"): 1}
    assert len(await runs_of(admin, "route step")) == 4


@pytest.mark.parametrize("unfolded", [0, 1, 20, 50])
async def test_a_report_has_its_days_however_they_are_kept(
    database: Database, admin: asyncpg.Connection, unfolded: int
) -> None:
    """Any days up to today, or before it, are added up once each, in months or singly, whatever is folded. (P10)"""
    for ago in range(60):
        await enter(admin, at=days_ago(ago), nano=1 << ago % 30)
        await end_run(admin, at=days_ago(ago), cost_nano=1 << ago % 30)
    await admin.execute("update usage_cursor set folded = $1", days_ago(60).date())
    rollup, stop = Rollup(database), days_ago(unfolded).date()
    while (await rollup.count()).anything and await admin.fetchval("select folded from usage_cursor") < stop:
        pass
    for first, last in ((59, -1), (40, -1), (30, -1), (29, -20), (12, 0), (50, 5), (59, 31), (21, 20), (0, -1), (2, 1)):
        wanted = UsageQuery(days_ago(first).date(), days_ago(last).date(), ("agent",))
        told = sum(1 << ago % 30 for ago in range(max(last + 1, 0), first + 1))
        assert [row["cost_nano"] for row in await read_usage(database, wanted, None, 2)] == [told]
        (runs,) = await read_usage_runs(database, wanted)
        assert (runs["cost_nano"], runs["runs"]) == (told, first - max(last, -1))
        assert runs["cost_nano_per_run"]["p50"] is not None


async def test_days_that_are_over_are_folded_into_months(database: Database, admin: asyncpg.Connection) -> None:
    """Each day is in its month once it is over, whether its entries came before the fold or after; not today."""
    rollup = Rollup(database)
    for days in (70, 31, 1, 0):
        await enter(admin, at=days_ago(days))
        await end_run(admin, at=days_ago(days))
    await admin.execute("update usage_cursor set folded = $1", days_ago(75).date())
    await count_all(rollup)
    today = days_ago(0).date()
    assert await admin.fetchval("select folded from usage_cursor") == today
    assert await months_agree(admin)
    for days in (70, 1, 0):
        await enter(admin, at=days_ago(days))
        await end_run(admin, at=days_ago(days), state="failed")
    await count_all(rollup)
    assert await months_agree(admin)
    assert await admin.fetchval("select sum(calls) from usage_call where span = 'month' and detail = 'owner'") == 5


async def test_a_look_finds_what_is_new_and_nothing_else(database: Database, admin: asyncpg.Connection) -> None:
    """With nothing written since, there is nothing to count; an entry, an ended run or a day that is over is."""
    rollup = Rollup(database)
    await count_all(rollup)
    assert not await rollup.awaits()
    for write in (enter, end_run):
        await write(admin)
        assert await rollup.awaits()
        await count_all(rollup)
        assert not await rollup.awaits()
    await end_run(admin, state=None)
    assert not await rollup.awaits()
    await admin.execute("update usage_cursor set folded = folded - 1")
    assert await rollup.awaits()


async def test_a_partition_stays_until_it_is_counted(database: Database, admin: asyncpg.Connection) -> None:
    """Retention drops no day of runs and no month of the ledger of which anything is not summed up yet. (P10)"""
    old = date(2025, 3, 14)
    await admin.execute("select make_partitions($1)", old)
    moment = datetime(2025, 3, 14, 12, tzinfo=UTC)
    low = await admin.fetchval("select uuid7_floor($1)", moment)
    await end_run(admin, id=low, at=moment)
    await enter(admin, call_id=low, run_id=low, at=moment)
    upkeep = Upkeep(database, 1)
    keep = {"run": 30, "ledger": 30}
    assert await upkeep.drop_partitions(keep) == []
    await count_all(Rollup(database))
    assert sorted(await upkeep.drop_partitions(keep)) == ["ledger_202503", "run_20250314"]
    assert await admin.fetchval("select calls from usage_call where span = 'month' and detail = 'owner'") == 1


async def test_the_indexes_are_told_of_new_pages(database: Database, admin: asyncpg.Connection) -> None:
    """The keeper, which owns nothing, can have the newest partitions' indexes summarized, and waits for nobody."""
    await enter(admin)
    await end_run(admin)
    rollup = Rollup(database)
    async with session(database.options.url) as other, other.transaction():
        await other.execute("lock table ledger in share mode")
        await rollup.summarize()
    await rollup.summarize()
    await count_all(rollup)


@pytest.mark.parametrize("width", [4, 20, 40, 62])
async def test_the_bucket_in_sql_is_the_bucket_in_python(admin: asyncpg.Connection, width: int) -> None:
    """usage_bucket gives every amount the bucket that domain.usage.bucket_of gives it."""
    luck = random.Random(width)
    amounts = [0, 1, 15, 16, 17, (1 << width) - 1, 1 << width, *(luck.randrange(1 << width) for _ in range(500))]
    rows = await admin.fetch("select usage_bucket(a) as bucket from unnest($1::bigint[]) as a", amounts)
    assert [row["bucket"] for row in rows] == [bucket_of(amount) for amount in amounts]


async def test_the_keeper_counts_what_comes_while_it_idles(database: Database, admin: asyncpg.Connection) -> None:
    """With nothing new it looks ever more rarely; the first look at something counts it."""
    duty = UsageRollup(Rollup(database), AnchoredClock())
    for _ in range(2):
        while await duty.look() < REST_IDLE_S * 0.9:
            pass
        await enter(admin)
        await duty.look()
        assert await by_usage(admin) == await by_the_ledger(admin) != {}


async def test_counting_afresh_goes_in_bounded_steps(database: Database, admin: asyncpg.Connection) -> None:
    """What is counted afresh is not one transaction's, so a pass may count a part of it; spending is not seen anew."""
    spend = SpendRecord(database)
    for _ in range(300):
        await enter(admin)
        await end_run(admin)
    await count_all(Rollup(database))
    before = await by_usage(admin)
    async with database.connection() as connection, connection.transaction():
        await spend.fold(connection, clock.now())
    spent = await admin.fetchval("select sum(nano) from spend_minute")
    await admin.execute("select recount_usage()")
    last, counted = read_snapshot("3:3:"), 0
    while last.xmax < 20 and not counted:  # each page of the table has a number of its own
        found = await Rollup(database, Stride(1)).count()
        counted = found.entries
        last = read_snapshot(await admin.fetchval("select snapshot::text from usage_cursor"))
    assert 0 < counted < 300
    await count_all(Rollup(database))
    assert await by_usage(admin) == before
    async with database.connection() as connection, connection.transaction():
        await spend.fold(connection, clock.now())
    assert await admin.fetchval("select sum(nano) from spend_minute") == spent


async def test_a_restored_database_is_counted_afresh(database: Database, admin: asyncpg.Connection) -> None:
    """Where transactions began anew nothing is counted, loudly, until all that is left is counted afresh. (P10)"""
    rollup = Rollup(database)
    for days in (40, 3, 0):
        await enter(admin, at=days_ago(days))
        await end_run(admin, at=days_ago(days))
    await admin.execute("update usage_cursor set folded = $1", days_ago(45).date())
    await count_all(rollup)
    await admin.execute("delete from ledger where at < $1", days_ago(30))
    await admin.execute(
        "update ledger set xid = xid + 1000000; update run set ended_xid = ended_xid + 1000000; "
        "update usage_cursor set snapshot = '1000000:1000000:'"
    )
    await enter(admin)
    with pytest.raises(ConfigError, match="recount_usage"):
        await rollup.count()
    await admin.execute("select recount_usage()")
    await enter(admin)
    await count_all(rollup)
    found = await by_usage(admin)
    gone = {key: sums for key, sums in found.items() if key[0] < days_ago(30).date()}
    assert len(gone) == 1
    assert {key: sums for key, sums in found.items() if key not in gone} == await by_the_ledger(admin)
    assert await months_agree(admin)
    assert await totals_agree(admin)
    runs = await admin.fetchval(
        "select sum(runs) from usage_run where part = 'run' and span = 'day' and detail = 'whole'"
    )
    assert runs == 3
