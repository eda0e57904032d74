"""Governed calls in runs: hops in the journal, answers repaired, runs that park."""

import json
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import asyncpg
from pydantic import BaseModel

import tollway
from governor_kit import SetBreaker, SetLimiter, guards
from record_kit import event_types
from runtime_kit import ended, ledger_of, steps_of, until, until_true
from tollway.config import Tier
from tollway.domain.clock import AnchoredClock
from tollway.domain.fold import fold
from tollway.hotstate.answers import PostgresAnswers
from tollway.record.cancel import cancel_runs
from tollway.record.reads import RunReads
from tollway.record.run_document import run_json
from tollway.record.upkeep import Upkeep
from tollway.runtime.keeper import Keeper, KeeperOptions
from tollway.runtime.registry import Registry
from tollway.simulator.provider import RunningSim


async def folded(admin: asyncpg.Connection, run_id: Any) -> Any:
    """The run as its events tell it."""
    rows = await admin.fetch("select type, at, data from event where run_id = $1 order by seq", run_id)
    return fold(SimpleNamespace(**row) for row in rows)


async def test_hops_are_in_the_journal(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """A call that falls back is one step of two calls, each with its entry; event and row name the rung (P10, P12)."""

    @tollway.agent
    async def falls(run: tollway.Run) -> list[str]:
        reply = await run.llm("hello", tier="broken")
        return [reply.route, *reply.degraded]

    async with make_crew(tiers={"broken": Tier(fallback=("fast",))}) as one:
        row = await ended(admin, await one.submit("falls"))
    assert (row["state"], json.loads(row["output"])) == ("succeeded", ["fast", "fallback"])
    assert (row["llm_calls"], row["steps"], row["degraded"]) == (2, 1, ["fallback"])
    assert await steps_of(admin, row["id"]) == [("1", "llm", "done")]
    assert await ledger_of(admin, row["id"]) == ["release", "settle"]
    types = await event_types(admin, row["id"])
    assert types[2:] == ["step.intent", "step.failed", "step.intent", "degraded", "step.done", "succeeded"]
    told = json.loads(await admin.fetchval("select data from event where type = 'degraded'"))
    assert told == {"rung": "fallback", "n": 1, "from": "broken", "to": "fast", "code": "provider_5xx"}
    assert (await folded(admin, row["id"])).llm_calls == 2
    assert await admin.fetchval("select calls from step where run_id = $1", row["id"]) == 2


async def test_an_answer_that_does_not_fit_is_repaired_once(
    agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """An answer that does not fit its type is asked for once more, with what was wrong; both calls are on record."""
    tries: list[str] = []

    class Picky(BaseModel):
        team: str

        def model_post_init(self, context: Any) -> None:
            tries.append(self.team)
            if len(tries) == 1:
                raise ValueError("this team does not exist")

    @tollway.agent
    async def asks(run: tollway.Run) -> str:
        return (await run.llm("Which team?", tier="fast", returns=Picky, cache="off")).parsed.team

    async with make_crew() as one:
        row = await ended(admin, await one.submit("asks"))
    assert (row["state"], row["llm_calls"], row["attempt"]) == ("succeeded", 2, 1)
    assert await ledger_of(admin, row["id"]) == ["settle", "settle"]
    assert [entry.status for entry in sim.ledger.rows()] == [200, 200]


async def test_who_waits_for_the_same_call_of_another_keeps_its_own_time(
    agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """A step's timeout bounds also its wait for an identical call in flight, whose own time is longer."""

    @tollway.agent(max_attempts=1)
    async def follows(run: tollway.Run) -> None:
        await run.gather(run.llm("same", tier="slow"), run.llm("same", tier="slow", timeout=0.3))

    async with make_crew() as one:
        row = await ended(admin, await one.submit("follows"), within_s=10)
    assert (row["state"], row["error_code"]) == ("dead", "timeout_step")


async def test_a_run_without_capacity_parks_and_resumes(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Without capacity a run gives up its slot, says so, loses no attempt, and goes on where it was later on."""
    calls: list[str] = []
    breaker = SetBreaker()

    @tollway.agent
    async def waits(run: tollway.Run) -> str:
        await run.task("before", calls.append, "before")
        breaker.shut = len(calls) == 1 and not parked
        return (await run.llm("hello", tier="fast", cache="off")).route

    parked: list[str] = []
    async with make_crew(guarded=guards(breakers={"fast": breaker})) as one:
        run_id = await one.submit("waits", max_attempts=1)
        await until_true(lambda: admin.fetchval("select state = 3 from queue where run_id = $1", run_id))
        await until(lambda: one.worker.running == 0)
        reads = RunReads(one.database)
        seen = json.loads(run_json(await reads.run(run_id)))
        assert (seen["state"], seen["blocked"]["reason"]) == ("parked", "capacity")
        assert seen["blocked"]["until"] is not None
        parked.append("seen")
        breaker.shut = False
        keeper = Keeper(
            Upkeep(one.database, 9),
            PostgresAnswers(one.database),
            one.broadcast,
            AnchoredClock(),
            KeeperOptions(0.05, {}, 1 << 20),
        )
        await keeper.start()
        row = await ended(admin, run_id)
        await keeper.stop()
    assert (row["state"], row["attempt"], calls) == ("succeeded", 1, ["before"])
    types = await event_types(admin, run_id)
    assert types[types.index("parked") :][:3] == ["parked", "resumed", "claimed"]
    assert (await folded(admin, run_id)).attempt == 1


async def test_a_parked_run_can_be_cancelled(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """A cancel ends a parked run at once."""

    @tollway.agent
    async def waits(run: tollway.Run) -> str:
        return (await run.llm("hello", tier="fast", cache="off")).route

    stand = guards({"fast": SetLimiter(free=False, wait=900.0)})
    async with make_crew(guarded=stand) as one:
        run_id = await one.submit("waits")
        await until_true(lambda: admin.fetchval("select state = 3 from queue where run_id = $1", run_id))
        await cancel_runs(one.database, [run_id], "key-9")
        assert (await ended(admin, run_id))["state"] == "cancelled"


async def test_a_run_parks_though_a_step_of_it_was_never_begun(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """A step cancelled between intent and deed is no call under way: it does not keep the run in its slot (P8)."""

    async def breaks() -> None:
        raise ValueError

    @tollway.agent
    async def goes_on(run: tollway.Run) -> None:
        with suppress(ValueError):
            await run.gather(breaks(), run.task("never", print))
        await run.llm("hello", tier="fast", cache="off")

    async with make_crew(guarded=guards({"fast": SetLimiter(free=False, wait=900.0)})) as one:
        run_id = await one.submit("goes_on")
        await until_true(lambda: admin.fetchval("select state = 3 from queue where run_id = $1", run_id), within_s=10)
        assert await steps_of(admin, run_id) == [("1", "never", "failed")]


async def test_a_run_does_not_park_while_its_other_calls_are_under_way(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """A branch without capacity waits for its siblings' paid calls before the run parks: none is cut (P2)."""
    limiter = SetLimiter(free=False, wait=900.0)

    @tollway.agent
    async def two(run: tollway.Run) -> None:
        await run.gather(run.llm("a", tier="brief", cache="off"), run.llm("b", tier="fast", cache="off"))

    async with make_crew(guarded=guards({"fast": limiter})) as one:
        run_id = await one.submit("two")
        await until_true(lambda: admin.fetchval("select state = 3 from queue where run_id = $1", run_id))
        assert await steps_of(admin, run_id) == [("1", "llm", "done")]
