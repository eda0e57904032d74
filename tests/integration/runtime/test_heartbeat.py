"""The heartbeat beats whatever the loop does, names who blocks it, and gives the process up in the end."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest

from runtime_kit import until, until_true
from tollway.record.database import Database, DatabaseOptions
from tollway.record.processes import live_processes, register_process
from tollway.runtime import heartbeat as heartbeat_module
from tollway.runtime.heartbeat import EXIT_BLOCKED, Heartbeat, HeartbeatOptions


class Counted(Heartbeat):
    """A heartbeat that counts."""

    beats = 0

    async def _beat(self, database: Database) -> None:
        await super()._beat(database)
        self.beats += 1


class Watched:
    """A heartbeat, and what it told."""

    def __init__(self, url: str, process_id: int) -> None:
        self.gone = asyncio.Event()
        self.lags: list[float] = []
        self.heartbeat = Counted(
            DatabaseOptions(url, connections_max=1),
            process_id,
            HeartbeatOptions(heartbeat_s=0.05, loop_block_max_s=60.0),
            self._facts,
            self.gone.set,
            self.lags.append,
        )

    @property
    def beats(self) -> int:
        """How often it beat."""
        return self.heartbeat.beats

    def _facts(self) -> dict[str, Any]:
        return {"beats": self.beats, "thread": threading.get_ident()}


@contextmanager
def watched(url: str, process_id: int) -> Iterator[Watched]:
    """A heartbeat that beats for as long as this lasts."""
    one = Watched(url, process_id)
    one.heartbeat.start()
    try:
        yield one
    finally:
        one.heartbeat.stop()
        one.heartbeat.stop()


def block_until(fact: Callable[[], object]) -> None:
    """Hold the thread, and so the event loop, until the fact holds."""
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_a_beat_tells_the_facts(database: Database, database_url: str) -> None:
    """The row's beat rises and carries the facts; lateness of the loop is told while it turns."""
    process_id = await register_process(database, "worker", 12.0)
    with watched(database_url, process_id) as one:
        await until(lambda: one.beats >= 3 and one.lags)
        (row,) = await live_processes(database, "worker")
        assert row.id == process_id
        assert row.facts["beats"] >= 2
        one.heartbeat.stopping = True
        one.heartbeat.soon()

        async def stopping() -> bool:
            return (await live_processes(database, "worker"))[0].stopping

        await until_true(stopping)
        assert min(one.lags) >= 0


async def test_facts_are_gathered_in_the_loop(database: Database, database_url: str) -> None:
    """What the facts look at is changed by the loop alone, so it is read there; facts that fail end no heartbeat."""
    process_id = await register_process(database, "worker", 12.0)
    with watched(database_url, process_id) as one:
        await until(lambda: one.beats >= 2)
        (row,) = await live_processes(database, "worker")
        assert row.facts["thread"] == threading.get_ident()
        one.heartbeat._facts = lambda: {}["nothing"]
        beats = one.beats
        await until(lambda: one.beats >= beats + 3)


async def test_a_blocked_loop_is_named_and_keeps_its_lease(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While an agent blocks the loop beats go on, and one warning tells the agent's task and where it stands."""
    monkeypatch.setattr(heartbeat_module, "BLOCKED_AFTER_S", 0.1)
    process_id = await register_process(database, "worker", 12.0)

    def named() -> list[Any]:
        return [record for record in caplog.records if record.message == "loop.blocked"]

    async def rude_agent() -> None:
        beats = one.beats
        block_until(lambda: named() and one.beats > beats + 3)

    with caplog.at_level(logging.WARNING), watched(database_url, process_id) as one:
        await until(lambda: one.beats)
        await asyncio.create_task(rude_agent(), name="rude 0199")
        await until(lambda: one.lags[-1] > 0.1 or max(one.lags) > 0.1)
    (record,) = named()
    assert record.fields["task"] == "rude 0199"
    assert "rude_agent" in record.fields["stack"]
    assert record.fields["blocked_s"] >= 0.1


async def test_a_row_taken_away_is_told(database: Database, database_url: str, admin: asyncpg.Connection) -> None:
    """When the row is gone the process hears of it once, and beats no more."""
    process_id = await register_process(database, "worker", 12.0)
    with watched(database_url, process_id) as one:
        await until(lambda: one.beats)
        assert not one.gone.is_set()
        await admin.execute("delete from process where id = $1", process_id)
        async with asyncio.timeout(20):
            await one.gone.wait()
        await until(lambda: not one.heartbeat._thread.is_alive())


async def test_beats_go_on_after_a_lost_connection(
    database: Database, database_url: str, admin: asyncpg.Connection
) -> None:
    """A server that ends the heartbeat's connection is reached again."""
    process_id = await register_process(database, "worker", 12.0)
    with watched(database_url, process_id) as one:
        await until(lambda: one.beats)
        await admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where pid <> pg_backend_pid() and datname = current_database()"
        )
        before = await admin.fetchval("select beat from process where id = $1", process_id)
        await until_true(lambda: admin.fetchval("select beat > $2 from process where id = $1", process_id, before))


_STUCK = """
import asyncio, sys, time
from tollway.record.database import DatabaseOptions
from tollway.runtime.heartbeat import Heartbeat, HeartbeatOptions

async def main():
    options = HeartbeatOptions(heartbeat_s=0.1, loop_block_max_s=0.5)
    Heartbeat(DatabaseOptions(sys.argv[1]), int(sys.argv[2]), options, dict, lambda: None, lambda _: None).start()
    await asyncio.sleep(0.2)
    time.sleep(60)

asyncio.run(main())
"""


async def test_a_loop_stuck_beyond_the_bound_ends_the_process(database: Database, database_url: str) -> None:
    """Past `loop_block_max_s` the process exits 70 by itself, so that its runs are claimed elsewhere."""
    process_id = await register_process(database, "worker", 12.0)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _STUCK, database_url, str(process_id)],
        capture_output=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == EXIT_BLOCKED == 70
