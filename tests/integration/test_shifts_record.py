"""Tier shifts on record, and how a worker learns of them."""

import asyncio

import asyncpg
import pytest

from ingress_kit import LocalNews
from runtime_kit import until
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.shifts import Shift
from tollway.record.database import Database, DatabaseOptions
from tollway.record.processes import register_process
from tollway.record.settings_sync import read_settings
from tollway.record.shifts import ShiftBoard, put_shifts
from tollway.runtime.heartbeat import Heartbeat, HeartbeatOptions

SHIFTS = (
    Shift("powerful", "capable"),
    Shift("fast", "capable", tenant="default", agent="triage", task_type="legal"),
    Shift("powerful", "powerful", agent="triage"),
)


async def test_they_are_replaced_all_at_once_and_keep_their_order(database: Database) -> None:
    """What was there is gone, order and unnamed callers are kept, and the settings' version rises with each change."""
    first = await put_shifts(database, SHIFTS)
    assert (await read_settings(database)).shifts == SHIFTS
    second = await put_shifts(database, SHIFTS[::-1])
    assert (await read_settings(database)).shifts == SHIFTS[::-1]
    third = await put_shifts(database, ())
    found = await read_settings(database)
    assert (found.shifts, found.version) == ((), third)
    assert first < second < third


async def test_changes_at_once_leave_one_of_them_whole(database: Database) -> None:
    """Of many replacements at the same time the last committed stands, never a mixture."""
    await asyncio.gather(*(put_shifts(database, [Shift(f"t{i}", f"t{j}") for j in range(3)]) for i in range(20)))
    found = (await read_settings(database)).shifts
    assert len(found) == 3
    assert len({shift.from_tier for shift in found}) == 1


async def test_an_unknown_tenant_cannot_be_written(database: Database) -> None:
    """The record itself refuses a shift of a tenant that is not there, and what stood stays."""
    await put_shifts(database, SHIFTS)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await put_shifts(database, [Shift("fast", "capable", tenant="nobody")])
    assert (await read_settings(database)).shifts == SHIFTS


async def test_a_board_reads_on_news(database: Database) -> None:
    """A board has the shifts of its start, and new ones as soon as news of the settings comes, until it stops."""
    await put_shifts(database, SHIFTS[:1])
    news = LocalNews()
    board = ShiftBoard(database, news)
    await board.start()
    await board.start()
    assert board.now == SHIFTS[:1]
    await put_shifts(database, SHIFTS)
    news.publish("settings", "")
    await until(lambda: board.now == SHIFTS)
    await board.stop()
    await board.stop()
    news.publish("settings", "")
    assert not news._callbacks["settings"]


async def test_without_news_the_next_beat_tells(database: Database, database_url: str) -> None:
    """The version that a worker's own beat brings back wakes the board: idle costs no query, lost news a beat."""
    board = ShiftBoard(database, LocalNews())
    await board.start()
    heartbeat = Heartbeat(
        DatabaseOptions(database_url, connections_max=1),
        await register_process(database, "worker", 12.0),
        HeartbeatOptions(heartbeat_s=0.05, loop_block_max_s=60.0),
        dict,
        lambda: None,
        lambda _: None,
    )
    versions: list[int] = []
    heartbeat.on_settings(board.version_seen)
    heartbeat.on_settings(versions.append)
    heartbeat.start()
    try:
        await until(lambda: versions)
        await put_shifts(database, SHIFTS)
        await until(lambda: board.now == SHIFTS)
    finally:
        heartbeat.stop()
        await board.stop()


async def test_a_beat_without_a_change_asks_nothing(database: Database, admin: asyncpg.Connection) -> None:
    """A version that the board has read already, or an older one, wakes nobody."""
    board = ShiftBoard(database, LocalNews())
    await board.start()
    version = await database.value("read_settings_version")
    await admin.execute("alter table tier_shift rename to gone")
    board.version_seen(version)
    board.version_seen(version - 1)
    await asyncio.sleep(0)
    assert board._task is not None
    assert not board._wake.is_set()
    await board.stop()


async def test_an_outage_keeps_what_was_known(database: Database, database_url: str) -> None:
    """A board that cannot read keeps its shifts and reads as soon as it can; one that cannot start says so."""
    await put_shifts(database, SHIFTS)
    own = Database(DatabaseOptions(database_url), database.clock)
    board = ShiftBoard(own, LocalNews())
    with pytest.raises(DatabaseUnavailable):
        await board.start()
    await own.start()
    await board.start()
    await own.stop()
    board.version_seen(await put_shifts(database, ()))
    await asyncio.sleep(0)  # the board is at it, in vain
    assert board.now == SHIFTS
    await own.start()
    await until(lambda: board.now == ())
    await board.stop()
    await own.stop()
