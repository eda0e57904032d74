"""Claiming on the real database: the twin of the pure rule, no run twice, none stranded."""

import asyncio
import random

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from record_kit import accept_all, claim, clock, event_types, ids, new_claims, new_run, success, until_blocked
from tollway.domain.clock import AnchoredClock
from tollway.queue.fair import Bounds, Line, Waiting, charge, cut_short, learned, pick, trued
from tollway.record.accept import Accepts
from tollway.record.claims import ClaimBounds, Claims, LineCosts
from tollway.record.database import Database, DatabaseOptions
from tollway.record.journal import JournalRecord
from tollway.record.processes import register_process
from tollway.record.tenants import put_tenant
from tollway.record.upkeep import Upkeep

LINES_MAX = 64
AGENTS = ("triage", "report", "review")


@st.composite
def states(draw: st.DrawFn) -> tuple[list[Line], int, Bounds]:
    """Lines with distinct virtual times and runs with distinct places, how many runs are wanted, and bounds."""
    vtimes = draw(st.lists(st.integers(0, 50_000), min_size=1, max_size=9, unique=True))
    places = iter(draw(st.permutations(range(1, 151))))
    weights = [draw(st.sampled_from([0.25, 1.0, 3.0, 7.5])) for _ in vtimes]
    agents = draw(st.integers(1, 3))
    floors = [draw(st.sampled_from([0.0, 0.0, 20_000.5])) for _ in AGENTS]
    lines = []
    for number, vtime in enumerate(vtimes):
        tenant = number // agents
        costs = draw(st.lists(st.integers(1, 9_000), min_size=0, max_size=15))
        runs = [Waiting(place := next(places), place, cost) for cost in costs]
        est_nano = draw(st.sampled_from([0, 0, 700, 8_000]))
        lines.append(
            Line(
                f"t{tenant}",
                vtime + 1 / 3,
                weights[tenant],
                runs,
                AGENTS[number % agents],
                est_nano,
                floors[number % agents],
            )
        )
    bounds = draw(
        st.one_of(
            st.just(Bounds()),
            st.builds(
                Bounds,
                st.dictionaries(st.sampled_from(AGENTS), st.integers(1, 9)),
                st.dictionaries(st.sampled_from(["t0", "t1", "t2"]), st.integers(0, 9)),
                st.one_of(st.none(), st.integers(1, 9)),
            ),
        )
    )
    return lines, draw(st.integers(1, 40)), bounds


async def load(admin: asyncpg.Connection, lines: list[Line]) -> dict[object, int]:
    """Put these lines into the database; returns the place of every run by its id."""
    await admin.execute("truncate queue, flow, flow_floor, run, event")
    await admin.executemany(
        "insert into flow_floor (lane, class, vtime) values ('standard', $1, $2)",
        list({(line.agent, line.floor) for line in lines}),
    )
    await admin.executemany(
        "insert into tenant (id, weight) values ($1, $2) on conflict (id) do update set weight = excluded.weight",
        [(line.tenant, line.weight) for line in lines],
    )
    await admin.executemany(
        "insert into flow (lane, class, tenant, vtime, est_nano) values ('standard', $1, $2, $3, $4)",
        [(line.agent, line.tenant, line.vtime, line.est_nano) for line in lines],
    )
    rows = [(ids.new(), line.agent, line.tenant, run.place, run.est_nano) for line in lines for run in line.runs]
    await admin.executemany(
        "insert into queue (run_id, lane, class, tenant, place, est_nano) values ($1, 'standard', $2, $3, $4, $5)",
        rows,
    )
    await admin.executemany(
        "insert into run (id, tenant, agent, version, lane, key_id, input, created_at, max_attempts) "
        "values ($1, $3, $2, '1', 'standard', 'k', '', now(), 1)",
        [row[:3] for row in rows],
    )
    return {row[0]: row[3] for row in rows}


async def test_the_sql_is_the_rules_twin(postgres: object, database_url: str, admin: asyncpg.Connection) -> None:
    """Over generated states `claim_runs` takes the runs that `pick` takes, and charges what `charge` says (P7)."""
    loop = asyncio.get_running_loop()
    database = Database(DatabaseOptions(database_url), AnchoredClock())
    await database.start()
    claims, _ = await new_claims(database)

    async def compare(lines: list[Line], wanted: int, bounds: Bounds) -> None:
        places = await load(admin, lines)
        expected = pick(lines, wanted, LINES_MAX, bounds)
        given = ClaimBounds(bounds.agents, bounds.tenants, bounds.other_tenant)
        floors = dict.fromkeys(sorted({line.agent for line in lines}), 0.0)
        claimed = await claims.claim("standard", floors, wanted, given)
        got = {(one.agent, one.tenant, places[one.run_id], one.est_nano) for one in claimed.claims}
        assert got == {(one.agent, one.tenant, one.run.place, one.cost_nano) for one in expected}
        seen = [line for line in lines if bounds.tenants.get(line.tenant) != 0]
        assert claimed.lines == len(seen)
        assert claimed.low == min((line.vtime for line in seen), default=None)
        assert claimed.level == min((line.start for line in seen), default=None)
        assert set(claimed.empty) == {(line.agent, line.tenant) for line in seen if not line.runs}
        assert bool(claimed.more) == cut_short(lines, wanted, LINES_MAX, expected, bounds)
        vtimes = {(row[0], row[1]): row[2] for row in await admin.fetch("select class, tenant, vtime from flow")}
        assert vtimes == pytest.approx(dict(charge(lines, expected)))

    @settings(max_examples=60, deadline=None)
    @given(states())
    def examples(state: tuple[list[Line], int, Bounds]) -> None:
        asyncio.run_coroutine_threadsafe(compare(*state), loop).result(30)

    try:
        await asyncio.to_thread(examples)
    finally:
        await database.stop()


@st.composite
def bills(draw: st.DrawFn) -> list[tuple[int, float, float, LineCosts]]:
    """Of lines: what they knew of their costs, where they stand and entered, and what their runs cost."""
    number = st.integers(0, 10**9)
    return [
        (
            draw(st.sampled_from([0, 1, 5_000])) and draw(number),
            (entered := float(draw(number))) + draw(number),
            entered,
            LineCosts(float(draw(number) - draw(number)), runs := draw(st.integers(0, 30)), float(runs * draw(number))),
        )
        for _ in range(draw(st.integers(1, 5)))
    ]


async def test_truing_up_is_the_rules_twin(postgres: object, database_url: str, admin: asyncpg.Connection) -> None:
    """`true_up` moves lines as `trued` says, and lets them and their class learn as `learned` says (P7)."""
    loop = asyncio.get_running_loop()
    database = Database(DatabaseOptions(database_url), AnchoredClock())
    await database.start()
    claims, _ = await new_claims(database)

    async def compare(lines: list[tuple[int, float, float, LineCosts]]) -> None:
        await admin.execute("truncate flow, flow_floor")
        await claims.enter_classes(["standard"], ["triage"])
        await admin.executemany(
            "insert into flow (lane, class, tenant, est_nano, vtime, entered) "
            "values ('standard', 'triage', $1, $2, $3, $4)",
            [(f"t{number}", *line[:3]) for number, line in enumerate(lines)],
        )
        await claims.true_up({("standard", "triage", f"t{n}"): line[3] for n, line in enumerate(lines)})
        rows = await admin.fetch("select vtime, est_nano from flow order by tenant")
        for row, (est_nano, vtime, entered, cost) in zip(rows, lines, strict=True):
            assert row["vtime"] == pytest.approx(trued(vtime, entered, cost.due))
            assert row["est_nano"] == pytest.approx(learned(est_nano, cost.runs, cost.cost_nano), abs=1)
        runs, whole = sum(line[3].runs for line in lines), sum(line[3].cost_nano for line in lines)
        known = await admin.fetchval("select est_nano from flow_floor")
        assert known == pytest.approx(learned(0, runs, whole), abs=1)

    @settings(max_examples=30, deadline=None)
    @given(bills())
    def examples(lines: list[tuple[int, float, float, LineCosts]]) -> None:
        asyncio.run_coroutine_threadsafe(compare(lines), loop).result(30)

    try:
        await asyncio.to_thread(examples)
    finally:
        await database.stop()


async def test_four_claimers_share_without_overlap(database: Database, admin: asyncpg.Connection) -> None:
    """Four workers empty 2,000 runs of 40 tenants: each run is claimed once, none is left, charges match costs."""
    await admin.execute("insert into tenant (id, weight) select 't' || n, 1 + n % 4 from generate_series(0, 39) n")
    rng = random.Random(7)
    await accept_all(database, [new_run(tenant=f"t{n % 40}", est_nano=rng.randrange(1, 9000)) for n in range(2000)])
    taken: list[object] = []

    async def worker() -> None:
        claims, _ = await new_claims(database)
        misses = 0
        while misses < 20:
            got = (await claim(claims, rng.choice([7, 20, 50]))).claims
            misses = 0 if got else misses + 1
            taken.extend(one.run_id for one in got)

    await asyncio.gather(*(worker() for _ in range(4)))
    assert len(taken) == len(set(taken)) == 2000
    assert (
        await admin.fetchval("select count(*) from queue where state = 1 and fence > 0 and worker is not null") == 2000
    )
    wrong = await admin.fetch(
        "select f.tenant from flow f join tenant t on t.id = f.tenant "
        "join (select tenant, sum(est_nano) as cost from queue group by tenant) c on c.tenant = f.tenant "
        "where abs(f.vtime - c.cost / t.weight) > 0.001"
    )
    assert wrong == []


async def test_accepts_race_idle_marking_and_nothing_is_stranded(database: Database, admin: asyncpg.Connection) -> None:
    """Accepts, claims and idle marks on the same few lines at once: in the end every run was claimed (P1)."""
    tenants = [f"t{n}" for n in range(4)]
    await admin.executemany("insert into tenant (id) values ($1)", [(tenant,) for tenant in tenants])
    rng = random.Random(3)
    claimed: set[object] = set()
    accepted: list[object] = []
    closing = 0
    done = asyncio.Event()

    async def accepter() -> None:
        accepts = Accepts(database)
        for _ in range(500):
            runs = [new_run(tenant=rng.choice(tenants)) for _ in range(rng.choice([1, 1, 2, 3]))]
            accepted.extend(one.run_id for one in await asyncio.gather(*(accepts.accept(run) for run in runs)))

    async def claimer() -> None:
        nonlocal closing
        claims, _ = await new_claims(database)
        while not done.is_set():
            got = await claim(claims, 20)
            claimed.update(one.run_id for one in got.claims)
            closing += len(got.empty)
            await claims.mark_idle("standard", sorted(got.empty))

    claimers = [asyncio.create_task(claimer()) for _ in range(2)]
    await asyncio.gather(*(accepter() for _ in range(3)))
    done.set()
    await asyncio.gather(*claimers)
    claims, _ = await new_claims(database)
    while got := (await claim(claims)).claims:
        claimed.update(one.run_id for one in got)
    assert closing > 50
    assert claimed == set(accepted)


async def test_a_run_that_meets_the_idle_mark_is_not_stranded(database: Database, admin: asyncpg.Connection) -> None:
    """Round after round the last accept of each line meets its idle mark, and its run is claimed all the same."""
    tenants = [f"t{n}" for n in range(20)]
    await admin.executemany("insert into tenant (id) values ($1)", [(tenant,) for tenant in tenants])
    accepts, (claims, _) = Accepts(database), await new_claims(database)
    lines = sorted(("triage", tenant) for tenant in tenants)
    rng = random.Random(5)

    async def accept() -> None:
        await asyncio.sleep(rng.uniform(0, 0.004))
        await asyncio.gather(*(accepts.accept(new_run(tenant=tenant)) for tenant in tenants))

    for _ in range(120):
        await asyncio.gather(accept(), claims.mark_idle("standard", lines))
        got = (await claim(claims, 100)).claims
        assert sorted(one.tenant for one in got) == sorted(tenants)


async def test_lines_that_fill_again_stay_open(database: Database, admin: asyncpg.Connection) -> None:
    """Only a line with nothing runnable is closed; a run entering opens it, so marking too much is harmless."""
    claims, _ = await new_claims(database)
    await accept_all(database, [new_run()])
    await claims.mark_idle("standard", [("triage", "default"), ("triage", "nobody")])
    assert await admin.fetchval("select state from flow") == 0
    await claim(claims)
    found = await claim(claims)
    assert (found.claims, found.empty, found.lines) == ([], [("triage", "default")], 1)
    await claims.mark_idle("standard", found.empty)
    assert await admin.fetchval("select state from flow") == 1
    empty = await claim(claims)
    assert (empty.claims, empty.empty, empty.low, empty.lines) == ([], [], None, 0)
    await accept_all(database, [new_run()])
    assert len((await claim(claims)).claims) == 1


async def test_fences_rise_and_are_never_reused(database: Database, admin: asyncpg.Connection) -> None:
    """Each claim of a run has a greater fence, told in its history with the attempt; a lost worker raises it too."""
    await accept_all(database, [run := new_run(max_attempts=9)])
    seen = [0]
    for _ in range(3):
        claims, worker = await new_claims(database)
        (held,) = (await claim(claims)).claims
        assert held.fence > seen[-1]
        seen.append(held.fence)
        if held.lost == 0:
            assert await Upkeep(database, 99).reap(worker) == [(run.id, "standard", 1)]
            row = await admin.fetchrow("select fence, worker, state from queue")
            assert row["fence"] > seen[-1]
            assert (row["worker"], row["state"]) == (None, 0)
        else:
            await admin.execute("update queue set state = 0, worker = null")
    assert (held.attempt, held.lost, held.errors) == (2, 1, 0)
    assert (await event_types(admin, run.id))[:4] == ["accepted", "claimed", "retried", "claimed"]


async def test_a_claim_brings_all_a_worker_needs(database: Database) -> None:
    """The claim carries the run as it was accepted."""
    run = new_run(metadata='{"a": 1}', deadline_at=clock.now() + 60, budget_nano=5, max_attempts=7)
    await accept_all(database, [run])
    claims, _ = await new_claims(database)
    (held,) = (await claim(claims)).claims
    assert (held.run_id, held.tenant, held.agent, held.lane, held.version) == (
        run.id, "default", "triage", "standard", "1",
    )  # fmt: skip
    assert (held.input, held.metadata, held.max_attempts, held.budget_nano) == (run.input, '{"a": 1}', 7, 5)
    assert (held.attempt, held.next_seq, held.steps, held.est_nano, held.key_id) == (1, 3, 0, 1000, "key-1")
    assert held.deadline_at is not None
    assert held.deadline_at.timestamp() == pytest.approx(run.deadline_at, abs=0.001)


async def test_lanes_and_agents_are_apart(database: Database) -> None:
    """A claim takes only its lane and the agents it names, and the floor hides lines below it."""
    await accept_all(
        database, [new_run(lane="batch"), new_run(agent="other"), mine := new_run(), new_run(agent="third")]
    )
    claims, _ = await new_claims(database)
    assert (await claims.claim("standard", {"triage": 0.1}, 10)).claims == []
    got = await claims.claim("standard", {"triage": 0.0, "unknown": 0.0}, 10)
    assert [one.run_id for one in got.claims] == [mine.id]
    both = await claims.claim("standard", {"other": 0.0, "third": 0.0}, 10)
    assert sorted(one.agent for one in both.claims) == ["other", "third"]


async def test_a_cancelled_run_between_sight_and_claim_is_not_charged(
    database: Database, admin: asyncpg.Connection
) -> None:
    """What somebody else ended while the claim waited for its row is neither claimed nor charged."""
    await accept_all(database, [new_run(est_nano=700), kept := new_run(est_nano=30)])
    claims, _ = await new_claims(database)
    async with admin.transaction():
        await admin.execute("delete from queue where est_nano = 700")
        claiming = asyncio.create_task(claim(claims))
        await until_blocked(admin)
    assert [one.run_id for one in (await claiming).claims] == [kept.id]
    assert await admin.fetchval("select vtime from flow") == 30


async def test_a_run_apart_is_claimed_alone_and_once(database: Database, admin: asyncpg.Connection) -> None:
    """A run that lost two workers is for `claim_alone` only, for one of those who try; a plain run is not."""
    await accept_all(database, [run := new_run(), plain := new_run(lane="batch")])
    for _ in range(2):
        claims, worker = await new_claims(database)
        assert len((await claim(claims)).claims) == 1
        await Upkeep(database, 9).reap(worker)
    assert (await claim(claims)).claims == []
    assert [row[0] for row in await database.rows("find_alone", ["standard"], ["triage"], 5)] == [run.id]
    rivals = [(await new_claims(database))[0] for _ in range(4)]
    got = [one for one in await asyncio.gather(*(rival.claim_alone(run.id) for rival in rivals)) if one is not None]
    assert len(got) == 1
    assert (got[0].lost, got[0].attempt, got[0].run_id) == (2, 3, run.id)
    assert await rivals[0].claim_alone(plain.id) is None
    assert (await event_types(admin, run.id))[-1] == "claimed"


async def test_what_runs_really_cost_is_trued_up(database: Database, admin: asyncpg.Connection) -> None:
    """The difference to the charge is added over the weight; the next run is charged what the last ones cost (P7)."""
    await put_tenant(database, "heavy", {"weight": 4})
    claims, _ = await new_claims(database)
    await claims.enter_classes(["standard"], ["triage"])
    await accept_all(database, [new_run(tenant="heavy", est_nano=400), new_run(est_nano=400)])
    held = {one.tenant: one for one in (await claim(claims)).claims}
    assert [(held[name].est_nano, held[name].weight) for name in ("heavy", "default")] == [(400, 4.0), (400, 1.0)]
    assert [held[name].tenant_weight for name in ("heavy", "default")] == [4.0, 1.0]
    await claims.true_up(
        {
            ("standard", "triage", "heavy"): LineCosts(800 / 4, 1, 1200.0),
            ("standard", "triage", "default"): LineCosts(-9000.0, 0, 0.0),
        }
    )
    rows = await admin.fetch("select tenant, vtime from flow order by tenant")
    assert [tuple(row) for row in rows] == [("default", 0.0), ("heavy", 300.0)]
    await put_tenant(database, "newcomer", {})
    await accept_all(database, [new_run(tenant=tenant, est_nano=400) for tenant in ("heavy", "default", "newcomer")])
    assert [one.est_nano for one in (await claim(claims)).claims] == [
        1200
    ] * 3  # who knows nothing charges as its class


async def test_a_lazy_claim_is_as_good_while_nothing_crashes(
    database: Database, database_url: str, admin: asyncpg.Connection
) -> None:
    """Claims through a database that does not wait for the disk are seen and fenced like any other."""
    lazy = Database(DatabaseOptions(database_url, durable=False), AnchoredClock())
    await lazy.start()
    try:
        worker = await register_process(database, "worker", 12.0)
        await accept_all(database, [new_run()])
        (held,) = (await claim(Claims(database, lazy, worker))).claims
        assert await JournalRecord(database, worker).complete([success(held)]) == [True]
        assert await admin.fetchval("select state from run") == "succeeded"
    finally:
        await lazy.stop()


async def test_what_a_bounded_tenant_may_not_have_is_the_others(database: Database, admin: asyncpg.Connection) -> None:
    """Runs that a bound passes over take up no room of those behind them, and a bound beyond the claim is none."""
    await admin.execute("insert into tenant (id) values ('flood'), ('few')")
    await accept_all(database, [new_run(tenant="flood") for _ in range(30)])
    await accept_all(database, [new_run(tenant="few") for _ in range(4)])
    await admin.execute("update flow set vtime = 1e9, est_nano = 1000 where tenant = 'few'")
    claims, _ = await new_claims(database)
    bounds = ClaimBounds({"triage": 16}, {"flood": 2, "few": 99}, 1)
    got = await claims.claim("standard", {"triage": 0.0}, 16, bounds)
    assert sorted(one.tenant for one in got.claims) == ["few"] * 4 + ["flood"] * 2


async def test_a_line_that_got_its_part_of_a_short_claim_has_more(database: Database) -> None:
    """Beside an empty line that claims much of it, one gets a few runs of each claim; it is said that more wait."""
    for tenant in ("cheap", "dear"):
        await put_tenant(database, tenant, {"weight": 1})
    claims, _ = await new_claims(database)
    await accept_all(database, [new_run(tenant="cheap"), *(new_run(tenant="dear") for _ in range(10))])
    assert len((await claim(claims, 11)).claims) == 11
    costs = {
        ("standard", "triage", "cheap"): LineCosts(0.0, 1, 1.0),
        ("standard", "triage", "dear"): LineCosts(0, 1, 1e9),
    }
    await claims.true_up(costs)
    await accept_all(database, [new_run(tenant="dear") for _ in range(10)])
    shown = [(len(got.claims), got.more) for got in [await claim(claims, 100) for _ in range(3)]]
    assert shown == [(4, True), (4, True), (2, False)]
