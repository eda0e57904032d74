"""Tasks with a time to live: done once for a tenant and an agent version, journaled all the same."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from typing import Any
from uuid import UUID

import asyncpg

import tollway
from record_kit import event_types
from runtime_kit import ended, ledger_of, steps_of, until, until_true
from tollway.record.reads import list_steps
from tollway.runtime.registry import Registry


class Rates:
    """A component: counts what it was asked, and may be held up."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.open = asyncio.Event()
        self.open.set()

    async def rate(self, currency: str) -> dict[str, Any]:
        """The rate of a currency, and how often it was asked for."""
        self.asked[currency] += 1
        number = self.asked[currency]
        await self.open.wait()
        return {"currency": currency, "asked": number}


def exchange(rates: Rates, version: str = "1", ttl_s: float | None = 60.0) -> None:
    """Register the agent `exchange`, which asks for the rate of its input."""

    @tollway.agent(name="exchange", version=version)
    async def agent(run: tollway.Run, currency: str) -> dict[str, Any]:
        return await run.task("rate", rates.rate, currency, cache_ttl=ttl_s)


async def outputs(admin: asyncpg.Connection, run_ids: list[UUID]) -> list[Any]:
    """What the runs returned, once they ended."""
    return [json.loads((await ended(admin, run_id))["output"]) for run_id in run_ids]


async def step_of(admin: asyncpg.Connection, run_id: UUID) -> asyncpg.Record:
    """The one step of a run that ended."""
    return await admin.fetchrow("select * from step where run_id = $1", run_id)


async def test_a_hit_is_a_journaled_step_that_does_nothing(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """The second run gets the first one's result: intent and outcome are written, marked, and the function rests."""
    rates = Rates()
    exchange(rates)
    async with make_crew() as one:
        first = await one.submit("exchange", input=b'"EUR"')
        assert await outputs(admin, [first]) == [{"currency": "EUR", "asked": 1}]
        second = await one.submit("exchange", input=b'"EUR"')
        third = await one.submit("exchange", input=b'"USD"')
        assert await outputs(admin, [second, third]) == [
            {"currency": "EUR", "asked": 1},
            {"currency": "USD", "asked": 1},
        ]
        steps = await list_steps(one.database, second, 0, 10)
        assert [one.metrics.task_cache.value(result) for result in ("miss", "hit")] == [2, 1]
    assert rates.asked == {"EUR": 1, "USD": 1}
    made, given = await step_of(admin, first), await step_of(admin, second)
    assert (made["cached"], given["cached"], given["state"], given["calls"]) == (False, True, "done", 0)
    assert made["result"] == given["result"]
    assert (steps[0]["cached"], steps[0]["saved_nano"], steps[0]["cost_nano"]) == (True, 0, 0)
    kinds = ["accepted", "claimed", "step.intent", "step.done", "succeeded"]
    assert await event_types(admin, first) == await event_types(admin, second) == kinds
    told = [
        json.loads(row[0])
        for row in await admin.fetch("select data from event where type = 'step.done' order by run_id")
    ]
    assert [(data.get("cached"), data.get("saved_nano")) for data in told] == [(None, None), (True, 0), (None, None)]
    assert await ledger_of(admin, second) == []


async def test_runs_that_ask_at_once_are_one_flight(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Of runs that need the same result at the same time one has it made, and the others wait for it."""
    rates = Rates()
    rates.open.clear()
    exchange(rates)
    async with make_crew() as one:
        runs = [await one.submit("exchange", input=b'"EUR"') for _ in range(5)]
        await until_true(lambda: admin.fetchval("select count(*) = 5 from step"))
        rates.open.set()
        assert await outputs(admin, runs) == [{"currency": "EUR", "asked": 1}] * 5
        assert one.metrics.task_cache.value("miss") == 1
    assert await admin.fetchval("select count(*) from step where cached") == 4


async def test_the_scope_is_tenant_and_version(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Another tenant's run, or one of another version of the agent's code, has its own result made."""
    rates = Rates()
    exchange(rates)
    await admin.execute("insert into tenant (id) values ('other')")
    async with make_crew() as one:
        runs = [await one.submit("exchange", input=b'"EUR"', tenant="default")]
        await outputs(admin, runs)
        runs.append(await one.submit("exchange", input=b'"EUR"', tenant="other"))
        assert [found["asked"] for found in await outputs(admin, runs)] == [1, 2]
        await until_true(lambda: admin.fetchval("select count(*) = 2 from answer"))
        agents._agents.clear()
        exchange(rates, version="2")
        runs.append(await one.submit("exchange", input=b'"EUR"', tenant="default"))
        assert [found["asked"] for found in await outputs(admin, runs)] == [1, 2, 3]
    rows = await admin.fetch("select tenant, agent from answer order by 1, 2")
    assert [tuple(row) for row in rows] == [
        ("default", "exchange@1"),
        ("default", "exchange@2"),
        ("other", "exchange@1"),
    ]


async def test_a_replayed_hit_stays_a_hit_and_a_cut_miss_is_made_again(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """After a crash a recorded hit is replayed as such, not looked up; a task cut behind its intent is made again."""
    rates, reached, go = Rates(), asyncio.Event(), asyncio.Event()

    @tollway.agent
    async def exchange_twice(run: tollway.Run) -> list[Any]:
        first = await run.task("rate", rates.rate, "EUR", cache_ttl=60)
        second = await run.task("rate", rates.rate, "EUR", cache_ttl=60)
        await run.progress("both")
        reached.set()
        await go.wait()
        return [first, second, await run.task("rate", rates.rate, "USD", cache_ttl=60)]

    async with make_crew() as one:
        run_id = await one.submit("exchange_twice")
        await reached.wait()
        await until_true(lambda: admin.fetchval("select count(*) = 2 from step where state = 'done'"))
        rates.open.clear()
        go.set()
        await until(lambda: rates.asked["USD"])
        await one.crash()
    assert await steps_of(admin, run_id) == [("1", "rate", "done"), ("2", "rate", "done"), ("3", "rate", "intent")]
    rates.open.set()
    async with make_crew() as other:
        row = await ended(admin, run_id)
        recorded = (await other.record.steps([run_id]))[run_id]
    assert row["state"] == "succeeded"
    euro = {"currency": "EUR", "asked": 1}
    assert json.loads(row["output"]) == [euro, euro, {"currency": "USD", "asked": 2}]
    assert rates.asked == {"EUR": 1, "USD": 2}
    assert [step["cached"] for step in recorded] == [False, True, False]


async def test_another_process_finds_it_in_the_shared_tier(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """A worker that has just begun gives the result that another worker had made before (P9: it asks the tier once)."""
    rates = Rates()
    exchange(rates)
    async with make_crew() as one:
        await outputs(admin, [await one.submit("exchange", input=b'"EUR"')])
        await until_true(lambda: admin.fetchval("select count(*) = 1 from answer"))
    async with make_crew() as other:
        runs = [await other.submit("exchange", input=b'"EUR"')]
        await outputs(admin, runs)
        runs.append(await other.submit("exchange", input=b'"EUR"'))
        assert [found["asked"] for found in await outputs(admin, runs)] == [1, 1]
        assert [other.metrics.task_cache.value(result) for result in ("shared_hit", "hit", "miss")] == [1, 1, 0]


async def test_a_failed_task_is_not_kept(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """What a task raises is its caller's own; whoever asks next has it made again, and that is kept."""
    made = Counter[str]()

    def flaky() -> int:
        made["calls"] += 1
        if made["calls"] == 1:
            raise OSError("no")
        return made["calls"]

    @tollway.agent
    async def stubborn(run: tollway.Run) -> list[int]:
        with suppress(OSError):
            await run.task("flaky", flaky, cache_ttl=60)
        return [await run.task("flaky", flaky, cache_ttl=60) for _ in range(2)]

    async with make_crew() as one:
        row = await ended(admin, await one.submit("stubborn"))
    assert (row["state"], row["output"]) == ("succeeded", b"[2,2]")
    assert [state for _, _, state in await steps_of(admin, row["id"])] == ["failed", "done", "done"]


async def test_senseless_uses_are_refused(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Arguments that are no JSON and a time that is none raise ValueError before a step is numbered (P11)."""

    @tollway.agent
    async def careless(run: tollway.Run) -> list[str]:
        said = []
        for args, ttl_s in (((object(),), 60), ((1,), 0), ((1,), -1.0), ((1,), float("inf")), ((1,), True)):
            try:
                await run.task("t", str, *args, cache_ttl=ttl_s)
            except ValueError as error:
                said.append(str(error).split(" must")[0])
        return said

    async with make_crew() as one:
        row = await ended(admin, await one.submit("careless"))
    assert json.loads(row["output"]) == ["the arguments of task 't'", *["cache_ttl"] * 4]
    assert await admin.fetchval("select count(*) from step") == 0
