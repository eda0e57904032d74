"""Concurrency keys against their pure rules, by chosen interleavings, and in a storm of everything at once."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
from hypothesis import given, settings
from hypothesis import strategies as st

from record_kit import claim, clock, new_claims, new_run, session, success
from tollway.domain.clock import AnchoredClock
from tollway.domain.concurrency import CANCEL_NEWEST, CANCEL_RUNNING, POLICIES, Rival, Waiter, heir, ousted
from tollway.record.accept import Accepts, NewRun, place_of
from tollway.record.cancel import cancel_runs
from tollway.record.claims import Claim
from tollway.record.database import Database, DatabaseOptions
from tollway.record.journal import JournalRecord
from tollway.record.processes import register_process
from tollway.record.server import EmbeddedPostgres
from tollway.record.upkeep import Upkeep
from tollway.record.writes import Leaving

KEYS = ("a", "b")
PAST_S = 100.0

AT_ONCE = """
select concurrency_key, count(*)
from queue
where concurrency_key is not null and gate is distinct from 'key'
    and (gate is distinct from 'time' or started_at is not null)
group by tenant, concurrency_key having count(*) > 1
"""
"""Keys that more than one run holds."""


@dataclass
class Model:
    """What should stand on the record: each live run as delayed, wants, holds, runs; the ended ones are gone."""

    runs: dict[UUID, NewRun] = field(default_factory=dict)
    stands: dict[UUID, str] = field(default_factory=dict)
    asked: set[UUID] = field(default_factory=set)

    def of(self, key: str, *stands: str) -> list[UUID]:
        """The runs of a key that stand so, in the order of their ids."""
        return sorted(id for id, at in self.stands.items() if at in stands and self.runs[id].concurrency_key == key)

    def policy(self, run_id: UUID) -> str:
        """A run's policy."""
        return self.runs[run_id].concurrency_policy or "queue"

    def accept(self, runs: list[NewRun]) -> None:
        """Write runs together."""
        pressed = set()
        for run in runs:
            self.runs[run.id] = run
            key = run.concurrency_key or ""
            if run.delay_s:
                self.stands[run.id] = "delayed"
            elif not self.of(key, "holds", "runs"):
                self.stands[run.id] = "holds"
            elif run.concurrency_policy != CANCEL_NEWEST:
                self.stands[run.id] = "wants"
                pressed |= {key} if run.concurrency_policy == CANCEL_RUNNING else set()
        for key in pressed:
            self.settle(key)

    def open(self) -> None:
        """Let all delayed runs be due."""
        due = [run_id for run_id, at in self.stands.items() if at == "delayed"]
        for run_id in due:
            self.stands[run_id] = "wants"
        for key in {self.runs[run_id].concurrency_key or "" for run_id in due}:
            self.pass_on(key)
            self.settle(key)

    def settle(self, key: str) -> None:
        """Cancel who must go."""
        held = self.of(key, "holds", "runs")
        rivals = [Rival(id, self.policy(id), True, id in self.asked) for id in held]
        rivals += [Rival(id, self.policy(id), False) for id in self.of(key, "wants") if self.policy(id) != "queue"]
        self.cancel([one.id for one in ousted(rivals)])

    def cancel(self, run_ids: list[UUID]) -> None:
        """Cancel runs: at once but for those that run."""
        self.asked |= {run_id for run_id in run_ids if self.stands.get(run_id) == "runs"}
        self.end([run_id for run_id in run_ids if self.stands.get(run_id) not in ("runs", None)])

    def end(self, run_ids: list[UUID]) -> None:
        """End runs together."""
        for run_id in run_ids:
            del self.stands[run_id]
        for key in KEYS:
            self.pass_on(key)

    def pass_on(self, key: str) -> None:
        """Give a free key to its heir."""
        if self.of(key, "holds", "runs"):
            return
        waiting = [Waiter(id, place_of(self.runs[id]), self.policy(id)) for id in self.of(key, "wants")]
        found = heir(waiting)
        if found is not None:
            self.stands[found.id] = "holds"


async def stands_on(admin: asyncpg.Connection) -> dict[UUID, str]:
    """The same, read from the record."""
    assert await admin.fetch(AT_ONCE) == []
    found = {}
    for row in await admin.fetch("select q.*, c.holder from queue q left join concurrency c on c.holder = q.run_id"):
        at = "runs" if row["state"] == 1 else {"time": "delayed", "key": "wants", None: "holds"}[row["gate"]]
        assert (row["holder"] is not None) == (at in ("holds", "runs"))
        found[row["run_id"]] = at
    wanted = {
        (row["concurrency_key"])
        for row in await admin.fetch("select concurrency_key from queue where gate is distinct from 'time'")
    }
    assert {row[0] for row in await admin.fetch("select key from concurrency")} == wanted
    return found


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """What happens, in order; runs are chosen by number among those that are eligible then."""
    run = st.tuples(st.sampled_from(KEYS), st.sampled_from(POLICIES), st.integers(0, 3), st.booleans())
    step = st.one_of(
        st.tuples(st.just("accept"), st.lists(run, min_size=1, max_size=4)),
        st.tuples(st.sampled_from(["claim", "open"]), st.none()),
        st.tuples(st.sampled_from(["finish", "cancel", "retry"]), st.sets(st.integers(0, 9), min_size=1, max_size=3)),
    )
    return draw(st.lists(step, min_size=1, max_size=14))


class World:
    """The model and the record, side by side."""

    def __init__(self, database: Database, admin: asyncpg.Connection) -> None:
        self.database = database
        self.admin = admin
        self.model = Model()
        self.held: dict[UUID, Claim] = {}

    async def start(self) -> None:
        """Begin with nothing."""
        await self.admin.execute("truncate queue, flow, concurrency, run, event")
        self.claims, worker = await new_claims(self.database)
        self.record = JournalRecord(self.database, worker)
        self.upkeep = Upkeep(self.database, await register_process(self.database, "keeper", 12.0))

    async def do(self, what: str, given: Any) -> None:
        """One step on both."""
        doing: dict[str, Callable[[Any], Coroutine[Any, Any, None]]] = {
            "accept": self.accept, "claim": self.claim, "open": self.open,
            "finish": self.finish, "cancel": self.cancel, "retry": self.retry,
        }  # fmt: skip
        await doing[what](given)
        assert await stands_on(self.admin) == self.model.stands
        assert {
            row[0] for row in await self.admin.fetch("select run_id from queue where cancelled_by is not null")
        } == (self.model.asked & set(self.model.stands))

    async def accept(self, wanted: list[tuple[str, str, int, bool]]) -> None:
        """Accept runs in one flush."""
        at = clock.now() - PAST_S
        runs = [
            new_run(concurrency_key=key, concurrency_policy=policy, created_at=at, priority_s=ahead, delay_s=late * 1.0)
            for key, policy, ahead, late in wanted
        ]
        self.model.accept(runs)
        accepts = Accepts(self.database)
        results = await asyncio.gather(*[accepts.accept(run) for run in runs])
        for run, result in zip(runs, results, strict=True):
            at_end = self.model.stands.get(run.id)
            assert (result.waits, result.ended) == (at_end == "wants", at_end is None)

    async def claim(self, _: None) -> None:
        """Claim all that may run."""
        claimed = (await claim(self.claims)).claims
        self.held |= {one.run_id: one for one in claimed}
        for run_id, at in self.model.stands.items():
            self.model.stands[run_id] = "runs" if at == "holds" else at

    async def open(self, _: None) -> None:
        """Let the delayed be due."""
        await self.upkeep.open_gates()
        await self.upkeep.settle_due_keys()
        self.model.open()

    def chosen(self, numbers: set[int], *stands: str) -> list[UUID]:
        """Runs by number, of those that stand so."""
        there = sorted(run_id for run_id, at in self.model.stands.items() if at in stands)
        return sorted({there[n % len(there)] for n in numbers}) if there else []

    async def finish(self, numbers: set[int]) -> None:
        """End running runs in one flush."""
        ids = self.chosen(numbers, "runs")
        assert await self.record.complete([success(self.held.pop(one)) for one in ids]) == [True] * len(ids)
        self.model.end(ids)

    async def cancel(self, numbers: set[int]) -> None:
        """Cancel runs, wherever they are."""
        ids = self.chosen(numbers, "runs", "holds", "wants", "delayed")
        await cancel_runs(self.database, ids, "k")
        self.model.cancel(ids)

    async def retry(self, numbers: set[int]) -> None:
        """Give running runs back to the queue."""
        for run_id in self.chosen(numbers, "runs"):
            one = self.held.pop(run_id)
            back = Leaving(run_id, one.fence, one.next_seq, None, 1, "retried", None)
            assert await self.record.requeue([back]) == [True]
            self.model.stands[run_id] = "holds"


async def test_the_record_follows_the_pure_rules(database_url: str, admin: asyncpg.Connection) -> None:
    """After any accepts, claims, ends, cancels, retries and due times the record stands as the rules say."""
    loop = asyncio.get_running_loop()
    database = Database(DatabaseOptions(database_url), AnchoredClock())
    await database.start()

    async def play(script: list[tuple[str, Any]]) -> None:
        world = World(database, admin)
        await world.start()
        for what, given_ in script:
            await world.do(what, given_)

    @settings(max_examples=60, deadline=None)
    @given(steps())
    def examples(script: list[tuple[str, Any]]) -> None:
        asyncio.run_coroutine_threadsafe(play(script), loop).result(60)

    try:
        await asyncio.to_thread(examples)
    finally:
        await database.stop()


class Storm:
    """Everything at once on a few keys, until `runs` were accepted and all have ended."""

    def __init__(self, database: Database, seed: int, runs: int) -> None:
        self.database = database
        self.rng = random.Random(seed)
        self.left = runs
        self.ids: list[UUID] = []
        self.accepting = 0
        self.over = False

    async def accept(self) -> None:
        """A client process: flushes of a few runs, most with a key."""
        accepts = Accepts(self.database)
        self.accepting += 1
        while self.left > 0:
            count = min(self.left, self.rng.randint(1, 12))
            self.left -= count
            runs = [self.run() for _ in range(count)]
            self.ids += [run.id for run in runs]
            await asyncio.gather(*[accepts.accept(run) for run in runs])
        self.accepting -= 1

    def run(self) -> NewRun:
        """Any run."""
        rng = self.rng
        key = rng.choice(["a", "b", "c", "d", None])
        return new_run(
            concurrency_key=key,
            concurrency_policy=None if key is None else rng.choice([None, *POLICIES]),
            priority_s=rng.choice([0.0, 0.0, 5.0]),
            delay_s=rng.choice([0.0, 0.0, 0.0, 0.01]),
            ttl_s=rng.choice([None, None, None, 0.02]),
        )

    async def work(self) -> None:
        """A worker: claims, ends some together, gives some back."""
        claims, worker = await new_claims(self.database)
        record = JournalRecord(self.database, worker)
        while not self.over:
            held = (await claim(claims, self.rng.choice([1, 5, 20]))).claims
            self.rng.shuffle(held)
            back = [one for one in held if one.cancelled_by is None and self.rng.random() < 0.2]
            leavings = [
                Leaving(one.run_id, one.fence, one.next_seq, self.rng.choice([None, 0.01]), 0, "handed_back", None)
                for one in back
            ]
            if leavings:
                await record.requeue(leavings)
            ends = [success(one) for one in held if one not in back]
            assert await record.complete(ends) == [True] * len(ends)
            await asyncio.sleep(0.002)

    async def cancel(self) -> None:
        """An operator: cancels handfuls, ended ones among them."""
        while not self.over:
            if self.ids:
                recent = self.ids[-60:]
                await cancel_runs(self.database, self.rng.sample(recent, min(len(recent), 6)), "k")
            await asyncio.sleep(0.02)

    async def keep(self) -> None:
        """A keeper."""
        upkeep = Upkeep(self.database, await register_process(self.database, "keeper", 12.0))
        while not self.over:
            await upkeep.open_gates()
            await upkeep.settle_due_keys()
            await upkeep.expire()
            await asyncio.sleep(0.005)

    async def watch(self, admin: asyncpg.Connection) -> None:
        """Look all the time whether a key is held once."""
        while not self.over:
            assert await admin.fetch(AT_ONCE) == []
            await asyncio.sleep(0)

    async def blow(self, admin: asyncpg.Connection) -> None:
        """All of it; returns once every run has ended."""
        async with asyncio.timeout(100), asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(self.accept())
                group.create_task(self.work())
            for _ in range(2):
                group.create_task(self.cancel())
                group.create_task(self.keep())
            group.create_task(self.watch(admin))
            async with session(self.database.options.url) as looking:
                while self.left or self.accepting or await looking.fetchval("select exists (select from queue)"):
                    await asyncio.sleep(0.05)
            self.over = True


async def test_a_storm_strands_nobody_and_locks_nobody_out(
    database: Database, admin: asyncpg.Connection, postgres: EmbeddedPostgres, database_name: str
) -> None:
    """P1: in a storm of accepts, claims, ends, cancels, expiries and due times over four keys, no key is held twice,
    every run ends without the keeper's mending, no key is left behind, and nobody runs into a deadlock."""
    storm = Storm(database, 7, 900)
    await storm.blow(admin)
    states = await admin.fetch("select state, count(*) from run group by state")
    assert sum(row["count"] for row in states) == 900
    assert {row["state"] for row in states} <= {"succeeded", "cancelled", "expired"}
    assert await admin.fetchval("select count(*) from concurrency") == 0
    await admin.execute("select pg_stat_force_next_flush()")
    assert await admin.fetchval("select deadlocks from pg_stat_database where datname = $1", database_name) == 0
