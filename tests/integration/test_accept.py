"""Accepting: all or nothing, once, and in the right place."""

import asyncio

import asyncpg
import pytest
from msgspec.structs import replace

from record_kit import (
    accept_all,
    claim,
    clock,
    event_types,
    everything,
    ids,
    new_claims,
    new_run,
    session,
    until_blocked,
)
from tollway.domain.errors import Problem
from tollway.record.accept import Accepted, Accepts, run_columns
from tollway.record.database import Database
from tollway.record.sql import query
from tollway.record.tenants import put_tenant
from tollway.record.upkeep import Upkeep


async def test_an_accepted_run_stands_in_run_queue_and_events(database: Database, admin: asyncpg.Connection) -> None:
    """One accept writes the run, its place, its first event and opens its line (P1)."""
    run = new_run(metadata='{"task_type":"x"}', deadline_at=clock.now() + 60, ttl_s=10.0, priority_s=5.0)
    assert await Accepts(database).accept(run) == Accepted(run.id, replayed=False)
    row = await admin.fetchrow("select * from run where id = $1", run.id)
    assert (row["tenant"], row["input"], row["state"]) == ("default", run.input, None)
    live = await admin.fetchrow("select *, extract(epoch from expires_at)::float8 as expires from queue")
    assert (live["run_id"], live["class"], live["state"], live["gate"]) == (run.id, "triage", 0, None)
    assert live["place"] == int((run.created_at - 5) * 1_000_000)
    assert live["expires"] == pytest.approx(run.created_at + 10, abs=0.001)
    assert await event_types(admin, run.id) == ["accepted"]
    assert [tuple(row) for row in await admin.fetch("select lane, class, tenant, state from flow")] == [
        ("standard", "triage", "default", 0)
    ]


async def test_a_refused_run_leaves_nothing(database: Database, admin: asyncpg.Connection) -> None:
    """What the schema refuses is refused whole, and its neighbours in the batch are written whole."""
    before = await everything(admin)
    accepts = Accepts(database)
    with pytest.raises(asyncpg.CheckViolationError):
        await accepts.accept(new_run(max_attempts=0, idempotency_key="k", body_hash=b"b"))
    assert await everything(admin) == before
    good, bad = new_run(), new_run(metadata="not json")
    futures = [accepts.accept(good), accepts.accept(bad)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert results[0] == Accepted(good.id, replayed=False)
    assert isinstance(results[1], asyncpg.InvalidTextRepresentationError)
    assert [row[0] for row in await admin.fetch("select id from run")] == [good.id]


async def test_sending_again_changes_nothing(database: Database, admin: asyncpg.Connection) -> None:
    """A batch whose answer was lost may be sent again: same answers, same rows, also when the runs have moved on."""
    accepts = Accepts(database)
    runs = [new_run(), new_run(idempotency_key="a", body_hash=b"x"), new_run(delay_s=60.0)]
    first = await accepts._write(runs)
    stands = await everything(admin)
    assert await accepts._write(runs) == first
    assert await everything(admin) == stands
    claims, _ = await new_claims(database)
    assert len((await claim(claims)).claims) == 2
    stands = await everything(admin)
    assert await accepts._write([*runs, extra := new_run()]) == [*first, Accepted(extra.id, replayed=False)]
    after = await everything(admin)
    assert {table: len(after[table]) - len(stands[table]) for table in ("run", "queue", "event", "flow")} == {
        "run": 1,
        "queue": 1,
        "event": 1,
        "flow": 0,
    }


async def test_duplicates_in_one_batch_become_one_run(database: Database, admin: asyncpg.Connection) -> None:
    """Concurrent requests with one key and body get one run, and the later ones are told so."""
    accepts = Accepts(database)
    runs = [new_run(idempotency_key="k", body_hash=b"same") for _ in range(5)]
    results = await asyncio.gather(*(accepts.accept(run) for run in runs))
    assert len({result.run_id for result in results}) == 1
    assert [result.replayed for result in results] == [False, True, True, True, True]
    assert await admin.fetchval("select count(*) from run") == 1


async def test_two_processes_with_one_key_make_one_run(database: Database, admin: asyncpg.Connection) -> None:
    """The same keys accepted at once by two processes make one run each, which both name."""
    one, two = Accepts(database), Accepts(database)
    for turn in range(15):
        keys = [f"{turn}-{n}" for n in range(20)]
        results = await asyncio.gather(
            *(one.accept(new_run(idempotency_key=key, body_hash=b"b")) for key in keys),
            *(two.accept(new_run(idempotency_key=key, body_hash=b"b")) for key in keys),
        )
        for left, right in zip(results[:20], results[20:], strict=True):
            assert left.run_id == right.run_id
            assert left.replayed != right.replayed
    assert await admin.fetchval("select count(*) from run") == 300
    assert await admin.fetchval("select count(*) from queue") == 300


async def test_a_key_with_another_body_is_a_conflict(database: Database, admin: asyncpg.Connection) -> None:
    """The same key with another body is refused, names the first run, and stores nothing; another tenant's is free."""
    accepts = Accepts(database)
    first = await accepts.accept(new_run(idempotency_key="k", body_hash=b"one"))
    with pytest.raises(Problem) as refused:
        await accepts.accept(new_run(idempotency_key="k", body_hash=b"two"))
    assert refused.value.code == "idempotency_conflict"
    assert refused.value.fields == {"run_id": str(first.run_id)}
    assert await admin.fetchval("select count(*) from run") == 1
    await put_tenant(database, "other", {})
    other = await accepts.accept(new_run(tenant="other", idempotency_key="k", body_hash=b"two"))
    assert not other.replayed


async def test_what_stands_by_its_place_alone_opens_by_it(database: Database, admin: asyncpg.Connection) -> None:
    """A process of the version before knows no `opens_at`, and may put a run behind the gate of time all the same."""
    await accept_all(database, [new_run()])
    await admin.execute("update queue set gate = 'time', place = (extract(epoch from now()) * 1000000)::bigint - 5")
    assert await admin.fetchval("select opens_at = to_timestamp(place / 1e6) from queue")
    assert await Upkeep(database, 9).open_gates() == ["standard"]
    assert await admin.fetchval("select gate is null and opens_at is null from queue")


async def test_a_delayed_run_waits_behind_its_gate(database: Database, admin: asyncpg.Connection) -> None:
    """A delayed run is no claim's business until its moment, and then goes the way of all others."""
    await accept_all(database, [new_run(delay_s=0.05), later := new_run(delay_s=3600.0)])
    assert await admin.fetchval("select count(*) from flow") == 0
    claims, _ = await new_claims(database)
    assert (await claim(claims)).claims == []
    upkeep = Upkeep(database, 0)
    due = await upkeep.due()
    assert due.opens["time"] == pytest.approx(clock.now(), abs=5)
    opened: list[str] = []
    async with asyncio.timeout(10):
        while not opened:
            opened = await upkeep.open_gates()
    assert opened == ["standard"]
    assert len((await claim(claims)).claims) == 1
    assert await admin.fetchval("select gate from queue where run_id = $1", later.id) == "time"
    due = await upkeep.due()
    assert due.opens["time"] == pytest.approx(later.created_at + 3600, abs=0.01)


async def test_a_paused_tenants_lines_are_shut(database: Database, admin: asyncpg.Connection) -> None:
    """Runs of a paused tenant are accepted into a shut line; unpausing opens it."""
    await put_tenant(database, "slow", {"paused": True})
    await accept_all(database, [new_run(tenant="slow"), new_run()])
    claims, _ = await new_claims(database)
    assert [one.tenant for one in (await claim(claims)).claims] == ["default"]
    assert await admin.fetchval("select state from flow where tenant = 'slow'") == 2
    await accept_all(database, [new_run(tenant="slow")])
    assert await admin.fetchval("select state from flow where tenant = 'slow'") == 2
    await put_tenant(database, "slow", {"paused": False})
    assert [one.tenant for one in (await claim(claims)).claims] == ["slow", "slow"]
    await put_tenant(database, "slow", {"paused": True})
    await accept_all(database, [new_run(tenant="slow")])
    assert (await claim(claims)).claims == []


async def test_a_pause_reaches_a_line_that_is_just_being_made(
    database: Database, admin: asyncpg.Connection, database_url: str
) -> None:
    """A tenant paused while its first run is being accepted ends up with a shut line."""
    await put_tenant(database, "slow", {})
    async with session(database_url) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.fetch(query("accept_runs"), *run_columns([new_run(tenant="slow")]))
        pausing = asyncio.create_task(put_tenant(database, "slow", {"paused": True}))
        await until_blocked(admin)
        await transaction.commit()
        await pausing
    assert await admin.fetchval("select state from flow where tenant = 'slow'") == 2


async def test_a_newcomer_enters_at_the_floor(database: Database, admin: asyncpg.Connection) -> None:
    """A new line, and an idle one that returns, start where service stands now, with no credit from before."""
    claims, _ = await new_claims(database)
    await put_tenant(database, "new", {})
    await accept_all(database, [new_run(est_nano=5000)])
    assert len((await claim(claims)).claims) == 1
    await claims.mark_idle("standard", [("triage", "default")])
    await claims.raise_floor("standard", {"triage": 70_000.0})
    await claims.raise_floor("standard", {"triage": 60_000.0})
    await accept_all(database, [new_run(), new_run(tenant="new")])
    rows = await admin.fetch("select tenant, vtime, state from flow order by tenant")
    assert [tuple(row) for row in rows] == [("default", 70_000, 0), ("new", 70_000, 0)]


async def test_an_old_place_lowers_the_head(database: Database, admin: asyncpg.Connection) -> None:
    """A run with a head start is found behind the place that claims have come to."""
    claims, _ = await new_claims(database)
    await accept_all(database, [new_run()])
    await claim(claims)
    assert await admin.fetchval("select head from flow") > 0
    await accept_all(database, [urgent := new_run(priority_s=3600.0)])
    assert [one.run_id for one in (await claim(claims)).claims] == [urgent.id]


async def test_a_run_that_yields_does_not_hide_those_before_it(database: Database, admin: asyncpg.Connection) -> None:
    """Claiming a run placed in the future (negative priority) leaves the line's head behind what is accepted now."""
    claims, _ = await new_claims(database)
    await accept_all(database, [new_run(priority_s=-3600.0)])
    assert len((await claim(claims)).claims) == 1
    assert await admin.fetchval("select head from flow") <= (clock.now() - 59) * 1_000_000


async def test_runs_of_one_id_are_one_run(database: Database, admin: asyncpg.Connection) -> None:
    """The same run handed in twice within one batch is written once."""
    run = replace(new_run(), id=ids.new())
    accepts = Accepts(database)
    assert [one.run_id for one in await asyncio.gather(accepts.accept(run), accepts.accept(run))] == [run.id, run.id]
    assert await admin.fetchval("select count(*) from queue") == 1
