"""The keeper: opens what is due, ends what is too late, takes back what the dead held, and is never fooled."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from record_kit import accept_all, claim, clock, event_types, new_claims, new_run, success
from runtime_kit import ended, until, until_true
from tollway.domain.errors import DatabaseUnavailable
from tollway.hotstate.answers import Answer, PostgresAnswers
from tollway.hotstate.broadcast import Broadcast
from tollway.record.cancel import cancel_runs
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.processes import beat_process, register_process, retire_processes
from tollway.record.tenants import put_tenant
from tollway.record.upkeep import Upkeep
from tollway.record.writes import Leaving
from tollway.runtime import keeper as keeper_module
from tollway.runtime.keeper import Keeper, KeeperOptions


class Kept:
    """A keeper and how often it looked; `blind` makes its looks fail as in an outage of the database."""

    def __init__(self, database: Database, keeper_id: int, broadcast: Broadcast, look_every_s: float) -> None:
        self.id = keeper_id
        self.looks = 0
        self.blind = False
        self.broadcast = broadcast
        upkeep = Upkeep(database, keeper_id)
        beats = upkeep.beats

        async def look() -> list[tuple[int, str, int, float]]:
            if self.blind:
                raise DatabaseUnavailable("an outage")
            self.looks += 1
            return await beats()

        upkeep.beats = look  # type: ignore[method-assign]
        self.keeper = Keeper(
            upkeep, PostgresAnswers(database), broadcast, database.clock, KeeperOptions(look_every_s, {}, 1 << 20)
        )

    async def look_again(self, times: int) -> None:
        """Return after so many more looks."""
        wanted = self.looks + times
        await until(lambda: self.looks >= wanted)


@asynccontextmanager
async def keeping(database: Database, look_every_s: float = 0.05) -> AsyncIterator[Kept]:
    """A keeper at work, with its news."""
    broadcast = Broadcast(database.options.url)
    await broadcast.start()
    await until(lambda: broadcast.connected)
    kept = Kept(database, await register_process(database, "keeper", 60.0), broadcast, look_every_s)
    await kept.keeper.start()
    try:
        yield kept
    finally:
        await kept.keeper.stop()
        await kept.keeper.stop()
        await broadcast.stop()


async def test_a_delayed_run_opens_when_it_is_due(database: Database, admin: asyncpg.Connection) -> None:
    """Told of it by news, the keeper wakes for the very moment, not for its next look; never before it."""
    heard: list[str] = []
    async with keeping(database, look_every_s=60.0) as kept:
        await until(lambda: kept.looks)
        kept.broadcast.subscribe("queue", heard.append)
        created_at = clock.now()
        run = new_run(delay_s=0.4, created_at=created_at)
        await accept_all(database, [run])
        assert await admin.fetchval("select gate from queue") == "time"
        kept.broadcast.publish("due", "")
        await until_true(lambda: admin.fetchval("select gate is null from queue"))
        assert clock.now() >= created_at + 0.4
        await until(lambda: "standard" in heard)


async def test_what_is_too_late_expires(database: Database, admin: asyncpg.Connection) -> None:
    """A deadline and a time to live end runs that no worker holds, with event and code; a running one is left alone."""
    running = new_run(deadline_at=clock.now() + 0.3)
    await accept_all(database, [running])
    claims, _ = await new_claims(database)
    assert len((await claim(claims)).claims) == 1
    runs = [new_run(deadline_at=clock.now() + 0.3), new_run(ttl_s=0.3), new_run(ttl_s=60.0)]
    await accept_all(database, runs)
    async with keeping(database) as kept:
        for run in runs[:2]:
            row = await ended(admin, run.id)
            assert (row["state"], row["error_code"]) == ("expired", "expired")
            assert await event_types(admin, run.id) == ["accepted", "expired"]
        await kept.look_again(2)
        left = await admin.fetch("select run_id from queue")
        assert {row[0] for row in left} == {running.id, runs[2].id}


async def test_runs_from_before_a_cap_leave_no_line_full(database: Database, admin: asyncpg.Connection) -> None:
    """Runs claimed before their tenant had a cap tell nobody when they end: the keeper's next look opens the line."""
    await accept_all(database, [new_run() for _ in range(4)])
    claims, worker = await new_claims(database)
    held = (await claim(claims, 2)).claims
    assert [one.capped for one in held] == [False] * 2
    await put_tenant(database, "default", {"max_running": 1})
    assert list((full := await claim(claims)).filled) == ["default"]
    assert await claims.turn_capped(full.filled) == []
    heard: list[str] = []
    async with keeping(database, look_every_s=0.5) as kept:
        kept.broadcast.subscribe("queue", heard.append)
        await kept.look_again(2)
        assert await admin.fetchval("select state from flow") == 3
        assert await JournalRecord(database, worker).complete([success(one) for one in held]) == [True] * 2
        looks = kept.looks
        await until_true(lambda: admin.fetchval("select state = 0 from flow"))
        assert kept.looks <= looks + 4
        await until(lambda: "standard" in heard)
    assert len((await claim(claims)).claims) == 1


@pytest.mark.parametrize("state", [2, 3])
async def test_a_cancelled_run_given_back_into_a_shut_line_is_ended(
    state: int, database: Database, admin: asyncpg.Connection
) -> None:
    """P10: asked to stop while it ran, a run that its worker gives back, or loses, ends as cancelled by who asked,
    though no claim reaches it; its concurrency key passes on and its webhook is told. Others are left alone."""
    keys = ("a", None, "c", None)
    back, lost, ousted, other = [new_run(concurrency_key=key, webhook_url="https://example.test/") for key in keys]
    await accept_all(database, [back, lost, ousted, other])
    claims, worker = await new_claims(database)
    held = {one.run_id: one for one in (await claim(claims)).claims}
    heir = new_run(concurrency_key="a")
    press = new_run(concurrency_key="c", concurrency_policy="cancel_running")
    await accept_all(database, [heir, press])
    assert (await cancel_runs(database, [back.id, lost.id], "key-9")).asked == {back.id, lost.id}
    leaving = [
        Leaving(run.id, held[run.id].fence, held[run.id].next_seq, 3600.0, 1, "retried", None)
        for run in (back, ousted, other)
    ]
    assert await JournalRecord(database, worker).requeue(leaving) == [True] * 3
    await admin.execute("update flow set state = $1", state)  # paused or full: nobody claims from it
    await admin.execute("update tenant set paused = $1, max_running = 1", state == 2)
    heard: list[str] = []
    async with keeping(database) as kept:
        for channel in ("run", "queue", "webhook"):
            kept.broadcast.subscribe(channel, heard.append)
        await kept.look_again(1)
        await beat_process(database, worker, 0, {})
        await until_true(lambda: admin.fetchval("select count(*) = 2 from run where state is not null"))
        assert await admin.fetchval("select state from queue where run_id = $1", lost.id) == 1
        await admin.execute("delete from process where id = $1", worker)
        await until_true(lambda: admin.fetchval("select count(*) = 3 from run where state is not null"))
        await until(lambda: {str(lost.id), "standard", ""} <= set(heard))
    for run, by, code in ((back, "key-9", None), (lost, "key-9", None), (ousted, "key-1", "concurrency_key")):
        row = await ended(admin, run.id)
        assert (row["state"], row["error_code"]) == ("cancelled", code)
        assert await event_types(admin, run.id) == ["accepted", "claimed", "retried", "cancelled"]
        who = await admin.fetchrow("select actor_kind, actor_id from event where run_id = $1 and seq = 4", run.id)
        assert tuple(who) == ("key", by)
        assert await admin.fetchval("select count(*) from webhook_delivery where run_id = $1", run.id) == 1
    left = {row["run_id"]: row["gate"] for row in await admin.fetch("select run_id, gate from queue")}
    assert left == {heir.id: None, press.id: None, other.id: "time"}


async def held_run(database: Database, ttl_s: float) -> tuple[object, int]:
    """A run held by a worker with this lease, which does not beat by itself."""
    run = new_run()
    await accept_all(database, [run])
    claims, worker = await new_claims(database)
    await database._pool.execute("update process set lease_ttl_s = $2 where id = $1", worker, ttl_s)
    assert len((await claim(claims)).claims) == 1
    return run.id, worker


async def test_a_worker_that_stops_beating_is_reaped(database: Database, admin: asyncpg.Connection) -> None:
    """Its runs are queued again with a higher fence, its row is gone, and one lost worker is on the account."""
    run_id, worker = await held_run(database, ttl_s=0.3)
    async with keeping(database):
        await until_true(lambda: admin.fetchval("select state = 0 and lost = 1 from queue"))
        assert await admin.fetchval("select count(*) from process where id = $1", worker) == 0
    assert (await event_types(admin, run_id))[-1] == "retried"


@pytest.mark.parametrize("why", ["an outage of the database", "its own suspension"])
async def test_the_reaper_is_not_fooled(why: str, database: Database, admin: asyncpg.Connection) -> None:
    """After time in which it could not see, everybody has a full lease again; who then beats is alive."""
    _, worker = await held_run(database, ttl_s=1.0)

    def suspended(until_s: float) -> None:
        while time.monotonic() < until_s:
            time.sleep(0.05)

    async with keeping(database) as kept:
        await kept.look_again(2)
        back_at = time.monotonic() + 1.5
        if why == "its own suspension":
            suspended(back_at)
        else:
            kept.blind = True
            while time.monotonic() < back_at:
                await asyncio.sleep(0.05)
            kept.blind = False
        await kept.look_again(2)  # the unchanged beat is older than the lease, and yet nobody is reaped
        assert await admin.fetchval("select state from queue") == 1
        await beat_process(database, worker, 0, {})
        await kept.look_again(3)
        assert await admin.fetchval("select state from queue") == 1
        await until_true(lambda: admin.fetchval("select state = 0 from queue"))


async def test_of_two_keepers_one_is_elected(database: Database, admin: asyncpg.Connection) -> None:
    """Only the elected one looks; when it stops, the other takes over without waiting for the term to end."""
    async with keeping(database) as first:
        await until(lambda: first.looks)
        async with keeping(database) as second:
            await first.look_again(5)
            assert second.looks == 0
            assert await admin.fetchval("select holder from election") == first.id
            await first.keeper.stop()
            await until(lambda: second.looks)
            assert await admin.fetchval("select holder from election") == second.id


async def test_the_retired_are_reaped_at_the_next_look(database: Database, admin: asyncpg.Connection) -> None:
    """A process that somebody saw end is not waited for."""
    await held_run(database, ttl_s=3600.0)
    async with keeping(database) as kept:
        await kept.look_again(3)
        assert await admin.fetchval("select state from queue") == 1
        assert await retire_processes(database, [os.getpid()]) == 2  # the worker, and the keeper's own row
        await until_true(lambda: admin.fetchval("select state = 0 from queue"))


async def test_runs_of_a_worker_without_a_row_are_taken_back(database: Database, admin: asyncpg.Connection) -> None:
    """Orphans are found at the first look."""
    run_id, worker = await held_run(database, ttl_s=3600.0)
    await admin.execute("delete from process where id = $1", worker)
    async with keeping(database):
        await until_true(lambda: admin.fetchval("select state = 0 from queue"))
    assert (await event_types(admin, run_id))[-1] == "retried"


async def test_a_dead_process_that_is_no_worker_is_forgotten(database: Database, admin: asyncpg.Connection) -> None:
    """The row of an API that ended without a word goes away."""
    process_id = await register_process(database, "api", 0.2)
    async with keeping(database):
        await until_true(lambda: admin.fetchval("select count(*) = 0 from process where id = $1", process_id))


async def test_cached_answers_past_their_time_are_swept(
    database: Database, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper drops answers whose time is over and leaves the others."""
    monkeypatch.setattr(keeper_module, "ANSWERS_EVERY_S", 0.05)
    store, now = PostgresAnswers(database), clock.now()
    await store.keep([Answer(bytes([n]) * 32, "acme", "", b"v", now - 1 if n % 2 else now + 60) for n in range(10)])
    async with keeping(database):
        await until_true(lambda: admin.fetchval("select count(*) = 5 from answer"))
    assert await admin.fetchval("select bool_and(expires_at > now()) from answer")
