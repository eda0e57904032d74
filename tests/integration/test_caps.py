"""`tenant.max_running` on the real database: strict over all claimers, free for everybody else, nobody stranded."""

import asyncio
import random
from collections import Counter

import asyncpg
import pytest
from msgspec.structs import replace

from record_kit import accept_all, claim, new_claims, new_run, success
from tollway.record import upkeep as upkeep_module
from tollway.record.claims import Claims
from tollway.record.database import Database
from tollway.record.journal import JournalRecord
from tollway.record.processes import register_process
from tollway.record.tenants import put_tenant
from tollway.record.upkeep import Upkeep

RUNNING = "select tenant, count(*) from queue where state = 1 group by tenant"


async def lines(admin: asyncpg.Connection, tenant: str) -> list[int]:
    """The states of a tenant's lines."""
    rows = await admin.fetch("select state from flow where tenant = $1 order by lane, class", tenant)
    return [row[0] for row in rows]


async def fill(claims: Claims, wanted: int = 10) -> list[str]:
    """One claim and what a claimer does after it; the tenants of its runs."""
    got = await claim(claims, wanted)
    if got.filled:
        await claims.turn_capped(got.filled)
    return sorted(one.tenant for one in got.claims)


async def test_a_cap_holds_at_every_moment_over_many_claimers(database: Database, admin: asyncpg.Connection) -> None:
    """Six claimers over lanes and agents never run more of a tenant than it may, and in the end every run was done."""
    caps = {"three": 3, "one": 1, "free": None}
    for tenant, most in caps.items():
        await put_tenant(database, tenant, {"max_running": most})
    rng = random.Random(11)
    lanes, agents = ("standard", "batch"), ("triage", "report")
    await accept_all(
        database,
        [
            new_run(tenant=tenant, lane=rng.choice(lanes), agent=rng.choice(agents))
            for tenant, runs in (("three", 120), ("one", 40), ("free", 120))
            for _ in range(runs)
        ],
    )
    done: list[object] = []
    most: Counter[str] = Counter()
    over = asyncio.Event()

    async def work() -> None:
        claims, worker = await new_claims(database)
        record = JournalRecord(database, worker)
        while len(done) < 280:
            got = await claims.claim(rng.choice(lanes), dict.fromkeys(agents, 0.0), rng.choice([1, 3, 10]))
            async with database.connection() as connection:
                for row in await connection.fetch(RUNNING):
                    most[row[0]] = max(most[row[0]], row[1])
            if got.filled:
                await claims.turn_capped(got.filled)
            for held in got.claims:
                assert held.capped == (caps[held.tenant] is not None)
                assert await record.complete([success(held)]) == [True]
                done.append(held.run_id)
                if held.capped:
                    await claims.turn_capped([held.tenant])

    async def watch() -> None:
        while not over.is_set():
            for row in await admin.fetch(RUNNING):
                most[row[0]] = max(most[row[0]], row[1])

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(60):
        await asyncio.gather(*(work() for _ in range(6)))
    over.set()
    await watching
    assert len(done) == len(set(done)) == 280
    assert (most["one"], most["three"]) == (1, 3)
    assert most["free"] > 3


async def test_a_full_tenants_lines_are_out_of_sight_until_a_run_leaves(
    database: Database, admin: asyncpg.Connection
) -> None:
    """P8: once full it costs later claims nothing, accepts do not open it; a run that ends does, at once."""
    await put_tenant(database, "capped", {"max_running": 2})
    await accept_all(database, [new_run(tenant="capped") for _ in range(5)] + [new_run(tenant="capped", agent="other")])
    claims, worker = await new_claims(database)
    got = await claim(claims)
    assert [(one.tenant, one.capped) for one in got.claims] == [("capped", True)] * 2
    assert list(got.filled) == ["capped"]
    assert await claims.turn_capped(["capped"]) == []
    assert await lines(admin, "capped") == [3, 3]
    await accept_all(database, [new_run(tenant="capped"), new_run()])
    assert await lines(admin, "capped") == [3, 3]
    seen = await claim(claims)
    assert ([one.tenant for one in seen.claims], seen.lines) == (["default"], 1)
    assert await claims.turn_capped(["capped"]) == []
    assert await JournalRecord(database, worker).complete([success(got.claims[0])]) == [True]
    assert await claims.turn_capped(["capped"]) == ["standard"]
    assert await lines(admin, "capped") == [0, 0]
    assert await fill(claims) == ["capped"]


async def test_a_changed_cap_acts_on_the_present_backlog(database: Database, admin: asyncpg.Connection) -> None:
    """Raised or lifted, its runs may start at once; lowered, none starts until enough ended; a pause goes first."""
    await put_tenant(database, "capped", {"max_running": 1})
    await accept_all(database, [new_run(tenant="capped") for _ in range(9)])
    claims, _ = await new_claims(database)
    assert await fill(claims) == ["capped"]
    await put_tenant(database, "capped", {"max_running": 3})
    assert await fill(claims) == ["capped"] * 2
    await put_tenant(database, "capped", {"max_running": 1})
    assert await fill(claims) == []
    assert await lines(admin, "capped") == [3]
    await put_tenant(database, "capped", {"paused": True})
    assert await lines(admin, "capped") == [2]
    assert await claims.turn_capped(["capped"]) == []
    await put_tenant(database, "capped", {"max_running": None})
    assert await lines(admin, "capped") == [2]
    await put_tenant(database, "capped", {"paused": False})
    got = await claim(claims)
    assert [one.capped for one in got.claims] == [False] * 6


async def test_the_keeper_opens_what_a_dead_worker_left_full(database: Database, admin: asyncpg.Connection) -> None:
    """After kill -9 nobody tells that runs left: the keeper's look finds room in full lines (P1)."""
    await put_tenant(database, "capped", {"max_running": 2})
    await accept_all(database, [new_run(tenant="capped") for _ in range(4)])
    claims, worker = await new_claims(database)
    assert await fill(claims) == ["capped"] * 2
    keeper = Upkeep(database, await register_process(database, "keeper", 12.0))
    assert await keeper.open_full() == []
    await keeper.reap(worker)
    assert await lines(admin, "capped") == [3]
    assert await keeper.open_full() == ["standard"]
    again, _ = await new_claims(database)
    assert await fill(again) == ["capped"] * 2


async def test_the_keeper_looks_through_full_lines_by_the_page(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tenants are full, a look counts a page of them, and the next goes on; the last begins anew."""
    monkeypatch.setattr(upkeep_module, "FULL_MAX", 2)
    names = ["a", "b", "c"]
    for name in names:
        await put_tenant(database, name, {"max_running": 1})
    await accept_all(database, [new_run(tenant=name) for name in names for _ in range(2)])
    claims, worker = await new_claims(database)
    got = await claim(claims)
    assert sorted(got.filled) == names
    await claims.turn_capped(names)
    keeper = Upkeep(database, await register_process(database, "keeper", 12.0))
    last = next(one for one in got.claims if one.tenant == "c")
    assert await JournalRecord(database, worker).complete([success(last)]) == [True]
    assert [await keeper.open_full() for _ in range(4)] == [[], ["standard"], [], []]


async def test_a_run_alone_counts_and_waits_for_room(database: Database, admin: asyncpg.Connection) -> None:
    """A process of its own is given to a run only while its tenant may start one."""
    await put_tenant(database, "capped", {"max_running": 1})
    await accept_all(database, [apart := new_run(tenant="capped"), new_run(tenant="capped")])
    await admin.execute("update queue set gate = 'alone', lost = 2 where run_id = $1", apart.id)
    claims, worker = await new_claims(database)
    held = (await claim(claims)).claims
    assert len(held) == 1
    assert await claims.waiting_alone(["standard"], ["triage"], 5) == []
    assert await claims.claim_alone(apart.id) is None
    assert await JournalRecord(database, worker).complete([success(held[0])]) == [True]
    assert await claims.waiting_alone(["standard"], ["triage"], 5) == [apart.id]
    alone = await claims.claim_alone(apart.id)
    assert alone is not None
    assert (alone.capped, alone.est_nano) == (True, 0)
    assert await JournalRecord(database, worker).complete([success(replace(alone, hooked=False))]) == [True]


async def test_who_has_no_cap_pays_for_none(database: Database, admin: asyncpg.Connection) -> None:
    """A claim of tenants without a cap counts nothing: it works even where counting would fail."""
    await accept_all(database, [new_run() for _ in range(3)])
    await admin.execute(
        "create or replace function tenant_room(of_tenant text) returns integer language plpgsql as "
        "$$ begin raise exception 'counted'; end $$"
    )
    claims, _ = await new_claims(database)
    got = await claim(claims)
    assert [one.capped for one in got.claims] == [False] * 3
    assert list(got.filled) == []


async def test_room_counted_by_another_claim_is_not_counted_twice(
    database: Database, admin: asyncpg.Connection
) -> None:
    """While one transaction counts a tenant's room, a claim passes its runs over, and says that there is more."""
    await put_tenant(database, "capped", {"max_running": 2})
    await accept_all(database, [new_run(tenant="capped"), new_run()])
    claims, _ = await new_claims(database)
    async with admin.transaction():
        assert await admin.fetchval("select tenant_room('capped')") == 2
        got = await claim(claims)
        assert [one.tenant for one in got.claims] == ["default"]
        assert (got.more, list(got.filled)) == (True, [])
    assert [one.tenant for one in (await claim(claims)).claims] == ["capped"]
