"""Dependencies in runs: what cannot run is held or parked, comes back in order and slowly, or goes on without."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

import tollway
from governor_kit import SetBreaker, SetLimiter, guards
from record_kit import accept_all, event_types, new_run
from runtime_kit import Crew, ended, steps_of, until, until_true
from tollway.config import Dependency
from tollway.domain.gates import Blocked, Opening
from tollway.hotstate.answers import PostgresAnswers
from tollway.llm.breakers.news import Told, told_text
from tollway.record.reads import RunReads
from tollway.record.run_document import run_json
from tollway.record.upkeep import Upkeep
from tollway.runtime.keeper import Keeper, KeeperOptions
from tollway.runtime.registry import Registry

LONG = {"crm": Dependency(open_s=600.0, open_max_s=600.0)}
"""Its breaker stays open for as long as a test takes, unless another process tells of a success."""


class Service:
    """Something outside that agents call: it refuses while it is `dead`."""

    def __init__(self) -> None:
        self.dead = True
        self.served: list[int] = []

    def call(self, number: int) -> int:
        """Serve a call."""
        if self.dead:
            raise ConnectionRefusedError
        self.served.append(number)
        return number


@asynccontextmanager
async def keeping(one: Crew) -> AsyncIterator[None]:
    """A keeper at work beside the worker."""
    keeper = Keeper(
        Upkeep(one.database, 9),
        PostgresAnswers(one.database),
        one.broadcast,
        one.database.clock,
        KeeperOptions(0.05, {}, 1 << 20),
    )
    await keeper.start()
    try:
        yield
    finally:
        await keeper.stop()


def shut(one: Crew, name: str = "crm") -> None:
    """Calls made so that the breaker opens."""
    while one.dependencies.closed(name) is None:
        passage = one.dependencies.enter(name)
        assert passage is not None
        passage.failed(ConnectionRefusedError())


def back(one: Crew, name: str = "crm") -> None:
    """Another process' probe succeeds."""
    one.broadcast.publish("dependency", told_text(Told(name, "ramping", "another", one.database.clock.now())))


async def submitted(one: Crew, agent: str, count: int) -> list[UUID]:
    """Runs of an agent in the order of their places, each with its number as input."""
    now = one.database.clock.now()
    runs = [new_run(agent=agent, input=str(n).encode(), created_at=now - 60 + n / 1000) for n in range(count)]
    await accept_all(one.database, runs)
    one.broadcast.publish("queue", "standard")
    return [run.id for run in runs]


async def document(one: Crew, run_id: UUID) -> dict[str, Any]:
    """The run as clients see it."""
    found: dict[str, Any] = json.loads(run_json(await RunReads(one.database).run(run_id)))
    return found


async def test_runs_that_meet_a_closed_door_park_and_come_back_in_order(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """P8: they free their slots, keep attempt and place, say why; then the first in place go first, few at a time."""
    crm = Service()

    @tollway.agent
    async def syncs(run: tollway.Run, number: int) -> int:
        return await run.task("push", crm.call, number, dependency="crm")

    async with make_crew(own=LONG) as one:
        shut(one)
        ids = await submitted(one, "syncs", 30)
        await until_true(lambda: admin.fetchval("select count(*) = 30 from queue where state = 3"))
        await until(lambda: one.worker.running == 0)
        seen = await document(one, ids[0])
        assert (seen["state"], seen["attempt"]) == ("parked", 1)
        assert (seen["blocked"]["reason"], seen["blocked"]["key"]) == ("dependency", "crm")
        assert datetime.fromisoformat(seen["blocked"]["until"]).timestamp() > one.database.clock.now() + 300
        places = [row["run_id"] for row in await admin.fetch("select run_id from queue order by place")]
        assert places == ids
        crm.dead = False
        async with keeping(one):
            back(one)
            rows = [await ended(admin, run_id) for run_id in ids]
    assert {(row["state"], row["attempt"]) for row in rows} == {("succeeded", 1)}
    assert sorted(crm.served) == list(range(30))
    assert max(crm.served[:4]) < 12, f"the first in place came back late: {crm.served}"
    types = await event_types(admin, ids[0])
    assert types[:4] == ["accepted", "claimed", "parked", "resumed"]
    told = json.loads(await admin.fetchval("select data from event where type = 'parked' limit 1"))
    assert (told["gate"], told["code"]) == ("dependency:crm", "dependency_open")


async def test_a_gate_opens_by_place_and_no_further_than_asked(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """Of a dependency's runs the first in place go, though not yet due where that is asked; others stay as they are."""

    @tollway.agent
    async def syncs(run: tollway.Run, number: int) -> None:
        await run.task("push", print, number, dependency="crm")

    async with make_crew(own=LONG) as one:
        shut(one)
        ids = await submitted(one, "syncs", 10)
        await until_true(lambda: admin.fetchval("select count(*) = 10 from queue where state = 3"))
        await one.worker.stop(grace_s=5)
        await admin.execute("update queue set opens_at = now() + interval '1 hour' where state = 3")
        upkeep = Upkeep(one.database, 9)
        assert set((await upkeep.due()).opens) == {"dependency:crm"}
        assert await upkeep.open_gates([Opening("dependency:crm", 4)]) == []
        assert await upkeep.open_gates([Opening("dependency:other", 4, early=True)]) == []
        assert await upkeep.open_gates([Opening("dependency:crm", 4, early=True)]) == ["standard"]
        opened = await admin.fetch("select run_id from queue where state = 0 and gate is null and opens_at is null")
        assert {row[0] for row in opened} == set(ids[:4])


async def test_held_before_the_claim_at_no_cost(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """P8: while what an agent requires is in trouble its runs are not looked at by any claim, and others run on."""
    crm = Service()

    @tollway.agent(requires=["crm"])
    async def syncs(run: tollway.Run, number: int) -> int:
        return await run.task("push", crm.call, number, dependency="crm")

    @tollway.agent
    async def plain(run: tollway.Run, number: int) -> int:
        return number

    async with make_crew(own=LONG) as one:
        classes: list[set[str]] = []
        claim = one.claims.claim

        async def watched(lane: str, floors: dict[str, float], *more: Any) -> Any:
            classes.append(set(floors))
            return await claim(lane, floors, *more)

        one.claims.claim = watched  # type: ignore[method-assign]
        shut(one)
        assert one.doors.facts()["syncs"][:2] == ("dependency", "crm")
        classes.clear()
        held = await submitted(one, "syncs", 40)
        others = await submitted(one, "plain", 20)
        for run_id in others:
            assert (await ended(admin, run_id))["state"] == "succeeded"
        assert not any("syncs" in names for names in classes)
        assert await admin.fetchval("select count(*) from queue where fence = 0 and state = 0 and gate is null") == 40
        crm.dead = False
        back(one)
        rows = [await ended(admin, run_id) for run_id in held]
    assert {row["state"] for row in rows} == {"succeeded"}
    assert max(crm.served[:4]) < 12, f"the first in place were not the first to try: {crm.served}"
    assert await event_types(admin, held[0]) == ["accepted", "claimed", "step.intent", "step.done", "succeeded"]
    assert one.doors.facts() == {}


async def test_an_optional_task_is_skipped_and_a_replay_skips_it_too(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """P12: the run goes on without it, says so in event, step and row; a later attempt finds the same None (P2)."""
    crm, attempts = Service(), []

    @tollway.agent(max_attempts=2)
    async def enriches(run: tollway.Run) -> list[Any]:
        found = await run.task("enrich", crm.call, 1, dependency="crm", optional=True)
        attempts.append(found)
        if len(attempts) == 1:
            raise tollway.Retry(0.0)
        return [found, await run.task("after", str, 2)]

    async with make_crew(own=LONG) as one:
        shut(one)
        run_id = await one.submit("enriches")
        await until(lambda: len(attempts) == 1)
        crm.dead = False
        async with keeping(one):
            row = await ended(admin, run_id)
    assert (row["state"], json.loads(row["output"]), attempts) == ("succeeded", [None, "2"], [None, None])
    assert (row["degraded"], crm.served) == (["skipped:crm"], [])
    assert await steps_of(admin, run_id) == [("1", "enrich", "done"), ("2", "after", "done")]
    assert await admin.fetchval("select error from step where n = 1") == "skipped:crm"
    told = [json.loads(one["data"]) for one in await admin.fetch("select data from event where type = 'degraded'")]
    assert told == [{"rung": "skipped", "n": 1, "dependency": "crm", "task": "enrich"}]


async def test_an_optional_task_that_is_tried_and_fails_raises(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """Skipped is only what is not tried at all; without a dependency nothing is optional."""
    crm = Service()

    @tollway.agent(max_attempts=1)
    async def enriches(run: tollway.Run, plain: bool) -> None:
        await run.task("enrich", crm.call, 1, dependency=None if plain else "crm", optional=True)

    async with make_crew(own=LONG) as one:
        failed = await ended(admin, await one.submit("enriches", input=b"false"))
        wrong = await ended(admin, await one.submit("enriches", input=b"true"))
    assert (failed["state"], failed["error_code"], failed["degraded"]) == ("dead", "ConnectionRefusedError", None)
    assert (wrong["error_code"], "dependency=" in wrong["error_message"]) == ("ValueError", True)


async def test_a_cached_result_needs_no_dependency(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """While the breaker is open, what the cache holds is given all the same."""
    crm = Service()
    crm.dead = False

    @tollway.agent
    async def looks(run: tollway.Run) -> int:
        return await run.task("find", crm.call, 7, dependency="crm", cache_ttl=60)

    async with make_crew(own=LONG) as one:
        await ended(admin, await one.submit("looks"))
        shut(one)
        assert (await ended(admin, await one.submit("looks")))["output"] == b"7"
    assert crm.served == [7]


async def test_a_run_does_not_park_for_a_dependency_while_its_other_steps_are_under_way(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """A branch that meets a closed door waits for its siblings' calls: none is cut (P2)."""

    @tollway.agent
    async def both(run: tollway.Run) -> None:
        await run.gather(run.llm("a", tier="brief", cache="off"), run.task("push", print, "b", dependency="crm"))

    async with make_crew(own=LONG) as one:
        shut(one)
        run_id = await one.submit("both")
        await until_true(lambda: admin.fetchval("select state = 3 from queue where run_id = $1", run_id))
        assert await steps_of(admin, run_id) == [("1", "llm", "done")]


async def test_a_parked_run_expires_at_its_deadline(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """A dependency that stays away does not keep a run beyond its deadline."""

    @tollway.agent
    async def syncs(run: tollway.Run) -> None:
        await run.task("push", print, dependency="crm")

    async with make_crew(own=LONG) as one:
        shut(one)
        run_id = await one.submit("syncs", deadline_at=one.database.clock.now() + 1.0)
        await until_true(lambda: admin.fetchval("select state = 3 from queue where run_id = $1", run_id))
        await admin.execute("update queue set opens_at = now() + interval '1 hour'")
        async with keeping(one):
            assert (await ended(admin, run_id))["state"] == "expired"


async def test_a_retry_waits_in_its_old_place(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """A delay says when it is over beside the place, so a run that comes back is not behind those that came later."""

    @tollway.agent
    async def again(run: tollway.Run) -> None:
        raise tollway.Retry(30.0)

    async with make_crew(own=LONG) as one:
        run_id = await one.submit("again")
        place = await admin.fetchval("select place from queue")
        row = await until_true(lambda: admin.fetchrow("select place, opens_at from queue where gate = 'time'"))
        assert row["place"] == place
        seen = await document(one, run_id)
    until_ = datetime.fromisoformat(seen["blocked"]["until"])
    assert (seen["blocked"]["reason"], abs((until_ - row["opens_at"]).total_seconds()) < 0.001) == ("time", True)


async def test_a_class_whose_tier_is_shut_stays_in_the_queue(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """P8: once its runs were seen to ask a tier, they are held while all its routes are; who asks nothing is not."""
    breaker = SetBreaker()

    @tollway.agent
    async def asks(run: tollway.Run, number: int) -> str:
        return (await run.llm(f"hello {number}", tier="fast", cache="off")).route

    @tollway.agent
    async def plain(run: tollway.Run, number: int) -> int:
        return number

    async with make_crew(guarded=guards(breakers={"fast": breaker})) as one:
        for run_id in [*await submitted(one, "asks", 2), *await submitted(one, "plain", 2)]:
            await ended(admin, run_id)
        breaker.shut, breaker.opens_at = True, one.database.clock.monotonic() + 60
        await until(one.doors.facts)
        (agent, blocked), *others = one.doors.facts().items()
        assert (agent, blocked[:2], others) == ("asks", ("capacity", "fast"), [])
        assert isinstance(blocked, Blocked)
        assert blocked.until is not None
        held = await submitted(one, "asks", 5)
        for run_id in await submitted(one, "plain", 5):
            await ended(admin, run_id)
        assert await admin.fetchval("select count(*) from queue where fence = 0 and gate is null") == 5
        breaker.shut = False
        for run_id in held:
            assert (await ended(admin, run_id))["state"] == "succeeded"
    assert "parked" not in await event_types(admin, held[0])


async def test_a_tier_with_too_long_a_queue_takes_no_more(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """Beyond the bound of its lane runs stay queued instead of parking; the first lane bears twice the wait."""
    limiter = SetLimiter()

    @tollway.agent
    async def asks(run: tollway.Run, number: int) -> str:
        return (await run.llm(f"hello {number}", tier="fast", cache="off")).route

    async with make_crew(guarded=guards({"fast": limiter})) as one:
        (first,) = await submitted(one, "asks", 1)
        await ended(admin, first)
        limiter.wait, limiter.waiting = 20.0, 3
        await until(lambda: one.doors.room("standard", "asks") == 0)
        assert one.doors.room("interactive", "asks") is None
        limiter.wait = 1.0
        await until(lambda: one.doors.room("standard", "asks") != 0)
        limiter.wait, limiter.waiting = 40.0, 0
        await until(lambda: (one.doors.room("interactive", "asks") or 9) <= 2)
