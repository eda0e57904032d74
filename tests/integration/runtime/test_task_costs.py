"""Tasks that declare what they cost: reserved, settled, unknown or saved in the ledger, as calls are (P2, P4)."""

import asyncio
import json
import time
from collections import Counter
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import pytest

import tollway
from governor_kit import SetBudgets
from record_kit import clock
from runtime_kit import ended, steps_of, until, until_true
from tollway.domain.budgets import Budget, Period, Rung
from tollway.domain.errors import LlmError
from tollway.domain.words import ActorKind, RunState
from tollway.record.budget_leases import BudgetLeases
from tollway.record.budgets import budgets_by_tenant, put_budgets
from tollway.record.cancel import cancel_runs, end_queued_runs, tell_cancelled
from tollway.record.database import Database
from tollway.record.reads import list_steps
from tollway.record.upkeep import Upkeep
from tollway.runtime.registry import Registry
from tollway.spend.guard import BudgetGuard
from tollway.spend.ladder import Account

CENT = 10_000_000


async def money_of(admin: asyncpg.Connection, run_id: UUID) -> list[tuple[str, int, int | None]]:
    """A run's ledger entries: kind, nano-dollars, what was saved."""
    rows = await admin.fetch(
        "select kind, nano, saved_nano from ledger where run_id = $1 order by call_id, kind", run_id
    )
    return [tuple(row) for row in rows]


async def test_a_declared_cost_is_reserved_and_settled(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """The intent reserves it, the outcome settles it; it is part of the run's cost, and not a call to a model (P10)."""

    @tollway.agent
    async def buyer(run: tollway.Run) -> list[float]:
        await run.task("search", str, "a", cost_usd=0.01)
        await run.task("score", str, "b", cost_usd=Decimal("0.0025"))
        await run.task("free", str, "c")
        return [run.budget.spent_usd]

    async with make_crew() as one:
        row = await ended(admin, await one.submit("buyer"))
        steps = await list_steps(one.database, row["id"], 0, 10)
    assert (row["state"], row["output"], row["cost_nano"], row["llm_calls"]) == (
        "succeeded",
        b"[0.0125]",
        12_500_000,
        0,
    )
    assert await money_of(admin, row["id"]) == [("settle", CENT, None), ("settle", 2_500_000, None)]
    entry = await admin.fetchrow("select * from ledger where run_id = $1 order by call_id", row["id"])
    named = ("step", "agent", "tenant", "price_version", "route", "tier", "model", "input_tokens", "estimated")
    assert [entry[name] for name in named] == ["search", "buyer", "default", "declared", None, None, None, 0, False]
    assert [(step["cost_nano"], step["calls"]) for step in steps] == [(CENT, 0), (2_500_000, 0), (0, 0)]
    assert await admin.fetchval("select array_agg(reserved_nano order by n) from step") == [CENT, 2_500_000, 0]


async def test_a_failed_task_is_paid(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """A function that raised had begun, so each of its calls is settled."""
    fails = [True, False]

    def flaky() -> str:
        if fails.pop(0):
            raise OSError("no")
        return "yes"

    @tollway.agent
    async def stubborn(run: tollway.Run) -> str:
        try:
            return await run.task("ask", flaky, cost_usd=0.01)
        except OSError:
            return await run.task("ask", flaky, cost_usd=0.01)

    async with make_crew() as one:
        row = await ended(admin, await one.submit("stubborn"))
    assert (row["state"], row["cost_nano"]) == ("succeeded", 2 * CENT)
    assert await money_of(admin, row["id"]) == [("settle", CENT, None)] * 2


async def test_parallel_tasks_stay_within_the_runs_budget(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """P4: as many as the budget covers are done, at once; the others are refused before they begin."""
    done: list[int] = []

    async def work(number: int) -> None:
        done.append(number)
        await asyncio.sleep(0)

    @tollway.agent
    async def greedy(run: tollway.Run) -> list[str]:
        async def one(number: int) -> str:
            try:
                await run.task("work", work, number, cost_usd=0.01)
            except tollway.LlmError as error:
                return error.code
            return "ok"

        return await run.gather(*(one(number) for number in range(9)))

    async with make_crew() as one:
        row = await ended(admin, await one.submit("greedy", budget_nano=4 * CENT + 1))
    assert sorted(json.loads(row["output"])) == ["budget_exhausted"] * 5 + ["ok"] * 4
    assert (len(done), row["cost_nano"], row["steps"]) == (4, 4 * CENT, 4)
    assert await money_of(admin, row["id"]) == [("settle", CENT, None)] * 4


async def test_a_cached_result_costs_nothing_and_says_what_it_saved(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """It needs no money of the run's budget either; the entry is `saved`, and the step shows the saving."""

    @tollway.agent
    async def thrifty(run: tollway.Run) -> str:
        return await run.task("rate", str, "EUR", cache_ttl=60, cost_usd=0.01)

    async with make_crew() as one:
        first = await ended(admin, await one.submit("thrifty"))
        second = await ended(admin, await one.submit("thrifty", budget_nano=1))
        steps = await list_steps(one.database, second["id"], 0, 10)
        assert [one.metrics.task_cache.value(result) for result in ("miss", "hit")] == [1, 1]
    assert (first["cost_nano"], second["state"], second["cost_nano"]) == (CENT, "succeeded", 0)
    assert await money_of(admin, first["id"]) == [("settle", CENT, None)]
    assert await money_of(admin, second["id"]) == [("saved", 0, CENT)]
    assert await admin.fetchval("select cached from ledger where kind = 'saved'") == "exact"
    assert (steps[0]["cached"], steps[0]["saved_nano"], steps[0]["cost_nano"]) == (True, CENT, 0)


async def test_of_one_flight_one_is_paid(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Runs that ask for the same at once pay once; what the others had reserved is free again."""
    go = asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "done"

    @tollway.agent
    async def together(run: tollway.Run) -> float | None:
        await run.task("same", slow, cache_ttl=60, cost_usd=0.01)
        return run.budget.remaining_usd

    async with make_crew() as one:
        runs = [await one.submit("together", budget_nano=CENT) for _ in range(4)]
        await until_true(lambda: admin.fetchval("select count(*) = 4 from step"))
        go.set()
        rows = [await ended(admin, run_id) for run_id in runs]
    assert sorted(row["output"] for row in rows) == [b"0.0", b"0.01", b"0.01", b"0.01"]
    kinds = await admin.fetch("select kind, count(*), sum(nano)::int from ledger group by 1 order by 1")
    assert [tuple(row) for row in kinds] == [("saved", 3, 0), ("settle", 1, CENT)]  # who came last found it kept


async def test_a_lost_worker_leaves_its_task_unknown_and_the_next_pays_again(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """P2: the ledger shows both: the call that was cut at its whole cost, and the one that was made after it."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        reached.set()
        await go.wait()
        return "done"

    @tollway.agent
    async def cut(run: tollway.Run) -> str:
        return await run.task("work", work, cost_usd=0.01)

    async with make_crew() as one:
        run_id = await one.submit("cut")
        await reached.wait()
        await one.crash()
    go.set()
    async with make_crew():
        row = await ended(admin, run_id)
    assert (row["state"], row["cost_nano"]) == ("succeeded", CENT)
    assert await money_of(admin, run_id) == [("unknown", CENT, None), ("settle", CENT, None)]
    unknown = await admin.fetchrow("select step, price_version, estimated, agent from ledger where kind = 'unknown'")
    assert tuple(unknown) == ("work", "declared", True, "cut")


async def test_a_task_that_must_not_be_repeated_stays_unknown(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """P2: with on_unknown="fail" the run fails, and the ledger has the one entry, of the whole cost."""
    reached = asyncio.Event()

    async def work() -> None:
        reached.set()
        await asyncio.Event().wait()

    @tollway.agent
    async def once(run: tollway.Run) -> None:
        await run.task("work", work, on_unknown="fail", cost_usd=0.01)

    async with make_crew() as one:
        run_id = await one.submit("once")
        await reached.wait()
        await one.crash()
    async with make_crew():
        row = await ended(admin, run_id)
    assert (row["state"], row["error_code"]) == ("failed", "step_unknown")
    assert await money_of(admin, run_id) == [("unknown", CENT, None)]


async def test_a_task_that_timed_out_is_unknown(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Cut by the attempt's own time: nobody knows what came of it, so its whole cost stands; later ones may be paid."""

    @tollway.agent(timeout=0.2, max_attempts=1)
    async def late(run: tollway.Run) -> None:
        await run.task("work", asyncio.Event().wait, cost_usd=0.01)

    async with make_crew() as one:
        row = await ended(admin, await one.submit("late"))
    assert (row["state"], row["error_code"]) == ("dead", "timeout")
    assert await money_of(admin, row["id"]) == [("unknown", CENT, None)]


async def test_a_task_cut_while_another_makes_it_is_released(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """A run that waited for another's making and was stopped had nothing done for it: its cost is surely none."""
    go = asyncio.Event()

    async def slow() -> None:
        await go.wait()

    @tollway.agent(timeout=30)
    async def leading(run: tollway.Run) -> None:
        await run.task("same", slow, cache_ttl=60, cost_usd=0.01)
        await run.llm("go on", tier="fast")

    async with make_crew() as one:
        first = await one.submit("leading")
        await until_true(lambda: admin.fetchval("select count(*) = 1 from step"))
        second = await one.submit("leading")
        await until_true(lambda: admin.fetchval("select count(*) = 2 from step"))
        tell_cancelled(one.broadcast, await cancel_runs(one.database, [second], "key"))
        stopped = await ended(admin, second)
        go.set()
        assert (await ended(admin, first))["state"] == "succeeded"
    assert stopped["state"] == "cancelled"
    assert await money_of(admin, second) == [("release", 0, None)]
    assert (await money_of(admin, first))[0] == ("settle", CENT, None)


async def test_a_run_ended_without_its_worker_leaves_its_task_unknown(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """P2: cancelled before another worker had it, a run whose task was cut has the task's cost in the ledger."""
    reached = asyncio.Event()

    async def work() -> None:
        reached.set()
        await asyncio.Event().wait()

    @tollway.agent
    async def left(run: tollway.Run) -> None:
        await run.task("free", str)
        await run.task("work", work, cost_usd=0.01)

    async with make_crew() as one:
        run_id = await one.submit("left")
        await reached.wait()
        await one.crash()
        await end_queued_runs(one.database, [run_id], RunState.CANCELLED, (ActorKind.KEY, "k"))
    assert await money_of(admin, run_id) == [("unknown", CENT, None)]


def on(*rungs: Rung, **more: Any) -> Account:
    """A budget of the runs' tenant, forced onto these rungs, with an hour to go."""
    given = {"id": 7, "tenant": "default", "period": Period.DAY, "hard_nano": 100 * CENT, "forced": frozenset(rungs)}
    return Account(Budget(**{**given, **more}), CENT, time.time() + 3600)


@pytest.mark.parametrize("rung", [Rung.PARK, Rung.CACHED_ONLY])
async def test_a_paid_task_parks_where_its_budget_has_it_so(
    agents: Registry, make_crew, admin: asyncpg.Connection, rung: Rung
) -> None:
    """P12: it gives up its slot before anything is reserved, and says on which rung; what is free goes on."""

    @tollway.agent
    async def careful(run: tollway.Run) -> None:
        await run.task("free", str)
        await run.task("paid", str, cost_usd=0.01)

    async with make_crew(budgets=SetBudgets([on(rung)])) as one:
        run_id = await one.submit("careful")
        await until_true(lambda: admin.fetchval("select state = 3 from queue where run_id = $1", run_id))
        await until(lambda: one.worker.running == 0)
        assert one.metrics.degraded.value(rung.value) == 1
    assert await steps_of(admin, run_id) == [("1", "free", "done")]
    told = await admin.fetch("select data from event where run_id = $1 and type = 'degraded'", run_id)
    assert [json.loads(row["data"]) for row in told] == [{"rung": rung.value, "path": "2", "budget": 7}]
    assert await money_of(admin, run_id) == []


async def test_a_refused_task_fails_its_run_and_a_kept_one_needs_no_money(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """On `refuse` nothing is paid for: the run is dead with `budget_exhausted`; a kept result is given all the same."""

    @tollway.agent
    async def asking(run: tollway.Run, currency: str) -> str:
        return await run.task("rate", str, currency, cache_ttl=60, cost_usd=0.01)

    budgets = SetBudgets([])
    async with make_crew(budgets=budgets) as one:
        await ended(admin, await one.submit("asking", input=b'"EUR"'))
        budgets.accounts = [on(Rung.REFUSE, on_hard=Rung.REFUSE)]
        kept = await ended(admin, await one.submit("asking", input=b'"EUR"'))
        refused = await ended(admin, await one.submit("asking", input=b'"USD"'))
    assert (kept["state"], kept["output"]) == ("succeeded", b'"EUR"')
    assert (refused["state"], refused["error_code"], refused["degraded"]) == ("dead", "budget_exhausted", ["refuse"])
    assert await money_of(admin, refused["id"]) == []


async def test_tasks_of_two_workers_stay_within_a_tenants_budget(
    agents: Registry, make_crew, database: Database, admin: asyncpg.Connection
) -> None:
    """P4: of 60 tasks at once in two workers just 25 are paid for by a budget for 25; the others are refused."""
    done: list[str] = []

    async def work(run_id: str) -> None:
        done.append(run_id)

    @tollway.agent(max_attempts=1)
    async def spending(run: tollway.Run) -> None:
        await run.task("work", work, run.id, cost_usd=0.01)

    await put_budgets(database, "default", [Budget(0, "default", Period.DAY, hard_nano=25 * CENT, on_hard=Rung.REFUSE)])
    await admin.execute("update budget set created_at = '-infinity'")
    found = budgets_by_tenant(await database.rows("list_budgets"))
    version = await database.value("read_settings_version")
    guards = [BudgetGuard(BudgetLeases(database), clock) for _ in range(2)]
    async with make_crew(budgets=guards[0]) as one, make_crew(budgets=guards[1]) as other:
        for guard, crew in zip(guards, (one, other), strict=True):
            guard.start(partial(getattr, crew, "id"), lambda: found, crew.worker.settled)
            guard.changed(version)
        runs = [await one.submit("spending") for _ in range(60)]
        rows = [await ended(admin, run_id) for run_id in runs]
        for guard in guards:
            await guard.stop()
    assert Counter((row["state"], row["error_code"]) for row in rows) == {
        ("succeeded", None): 25,
        ("dead", "budget_exhausted"): 35,
    }
    assert len(done) == 25
    assert await admin.fetchval("select sum(nano) from ledger where kind = 'settle'") == 25 * CENT
    spent = await admin.fetchrow("select spent_nano, granted_nano from budget_account")
    assert tuple(spent) == (25 * CENT, 0)


@pytest.mark.parametrize("cost", [-0.01, float("nan"), float("inf"), True, "0.01", 1_000_001, None, Decimal("NaN")])
async def test_a_senseless_cost_is_refused(agents: Registry, make_crew, admin: asyncpg.Connection, cost: Any) -> None:
    """P11: what is no amount of money raises ValueError before a step is numbered."""
    said: list[str] = []

    @tollway.agent
    async def careless(run: tollway.Run) -> None:
        try:
            await run.task("t", str, cost_usd=cost)
        except ValueError as error:
            said.append(str(error))

    async with make_crew() as one:
        await ended(admin, await one.submit("careless"))
    assert said
    assert said[0].startswith("cost_usd must be a number of dollars")
    assert await admin.fetchval("select count(*) from step") == 0


async def test_what_an_earlier_attempt_may_have_cost_counts_within_the_runs_budget(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """P4: a run's own budget holds over all its attempts, for calls too that may have been billed or not."""

    async def work() -> None:
        await asyncio.Event().wait()

    @tollway.agent(max_attempts=5)
    async def hasty(run: tollway.Run) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await run.task("work", work, cost_usd=0.01)
        raise tollway.Retry(after_s=0.0)

    async with make_crew() as one:
        run_id, keeper = await one.submit("hasty", budget_nano=2 * CENT), Upkeep(one.database, 0)

        async def over() -> asyncpg.Record | None:
            for lane in await keeper.open_gates():
                one.broadcast.publish("queue", lane)
            return await admin.fetchrow("select * from run where id = $1 and state is not null", run_id)

        row = await until_true(over)
    assert (row["state"], row["error_code"], row["attempt"]) == ("dead", "budget_exhausted", 3)
    assert await money_of(admin, row["id"]) == [("unknown", CENT, None)] * 2


async def test_a_lost_workers_call_counts_within_the_runs_budget_from_the_start(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """P4: what a claim finds begun may have been billed, and is spent before its step is come to; once."""
    reached, lost = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        reached.set()
        await asyncio.Event().wait()

    @tollway.agent
    async def cut(run: tollway.Run) -> int:
        turn, made = asyncio.Event(), 0

        async def first() -> None:
            if lost.is_set():
                await turn.wait()
            await run.task("work", work, cost_usd=0.01)

        async def others() -> None:
            nonlocal made
            await lost.wait()
            try:
                for _ in range(3):
                    await run.task("other", str, cost_usd=0.01)
                    made += 1
            except LlmError:
                turn.set()

        with pytest.raises(LlmError, match="budget"):
            await run.gather(first(), others())
        return made

    async with make_crew() as one:
        run_id = await one.submit("cut", budget_nano=3 * CENT)
        await reached.wait()
        await one.crash()
    lost.set()
    async with make_crew():
        row = await ended(admin, run_id)
    assert (row["state"], row["output"], row["cost_nano"]) == ("succeeded", b"2", 2 * CENT)
    assert sorted(await money_of(admin, run_id)) == [("settle", CENT, None)] * 2 + [("unknown", CENT, None)]
