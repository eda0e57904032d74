"""Runs on the rungs of their budgets: what the run, its steps, its events and the ledger say of them (P12)."""

import json
import time
from dataclasses import replace
from typing import Any

import asyncpg

import tollway
from governor_kit import SetBudgets
from record_kit import event_types
from runtime_kit import ended, ledger_of, until, until_true
from tollway.config import Llm, Tier
from tollway.domain.budgets import Budget, LadderStep, Period, Rung
from tollway.domain.gates import Opening
from tollway.record.upkeep import Upkeep
from tollway.runtime.registry import Registry
from tollway.simulator.provider import RunningSim
from tollway.spend.ladder import Account

DOLLAR = 1_000_000_000
LOWER = {"brief": Tier(lower="fast")}


def on(*rungs: Rung, **more: Any) -> Account:
    """A budget of the runs' tenant, half spent, that stands on these rungs since then."""
    ladder = tuple(LadderStep(50, rung) for rung in rungs)
    given = {"id": 7, "tenant": "default", "period": Period.DAY, "hard_nano": 2 * DOLLAR, "ladder": ladder}
    return Account(Budget(**{**given, **more}), DOLLAR, time.time() + 3600)


async def rungs_told(admin: asyncpg.Connection, run_id: Any) -> list[dict[str, Any]]:
    """The data of the run's `degraded` events, in order."""
    rows = await admin.fetch("select data from event where run_id = $1 and type = 'degraded' order by seq", run_id)
    return [json.loads(row["data"]) for row in rows]


async def test_rungs_are_in_run_step_and_event(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """P12: each rung is in the reply, the run and an event a step; the step keeps the tier that was asked for."""

    @tollway.agent
    async def asks(run: tollway.Run) -> list[list[str]]:
        one = await run.llm("hello", tier="brief", max_tokens=100, cache="off")
        other = await run.llm("again", tier="brief", max_tokens=100, cache="off")
        return [list(one.degraded), list(other.degraded)]

    budgets = SetBudgets([on(Rung.LOWER_TIER, Rung.FEWER_TOKENS, soft_nano=DOLLAR)])
    async with make_crew(tiers=LOWER, budgets=budgets) as one:
        row = await ended(admin, await one.submit("asks"))
        told = one.metrics.degraded
        assert (told.value("lower_tier"), told.value("fewer_tokens"), told.value("alert")) == (2, 2, 2)
    assert json.loads(row["output"]) == [["fewer_tokens", "lower_tier"]] * 2
    assert row["degraded"] == ["alert", "fewer_tokens", "lower_tier"]
    assert await rungs_told(admin, row["id"]) == [
        {"rung": "alert", "n": 1, "budget": 7},
        {"rung": "fewer_tokens", "n": 1, "budget": 7},
        {"rung": "lower_tier", "n": 1, "budget": 7},
        {"rung": "fewer_tokens", "n": 2, "budget": 7},
        {"rung": "lower_tier", "n": 2, "budget": 7},
    ]
    types = await event_types(admin, row["id"])
    assert types[2:7] == ["step.intent", "degraded", "degraded", "degraded", "step.done"]
    steps = await admin.fetch("select tier, asked, route from step where run_id = $1", row["id"])
    assert {tuple(step) for step in steps} == {("fast", "brief", "fast")}
    assert await ledger_of(admin, row["id"]) == ["settle", "settle"]


async def test_only_kept_answers_are_given(
    agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """On `cached_only` a call that was answered before is answered again, as it was asked; another one fails."""

    @tollway.agent(max_attempts=1)
    async def asks(run: tollway.Run, text: str) -> list[str]:
        reply = await run.llm(text, tier="brief", max_tokens=100)
        return [str(reply.cached), *reply.degraded]

    budgets = SetBudgets()
    async with make_crew(tiers=LOWER, budgets=budgets) as one:
        await ended(admin, await one.submit("asks", input=b'"kept"'))
        budgets.accounts = [on(Rung.CACHED_ONLY, Rung.LOWER_TIER, on_hard=Rung.REFUSE)]
        kept = await ended(admin, await one.submit("asks", input=b'"kept"'))
        other = await ended(admin, await one.submit("asks", input=b'"other"'))
    assert (json.loads(kept["output"]), kept["degraded"]) == (["True", "cached_only"], ["cached_only"])
    assert await rungs_told(admin, kept["id"]) == [{"rung": "cached_only", "n": 1, "budget": 7}]
    assert await ledger_of(admin, kept["id"]) == ["saved"]
    assert (other["error_code"], other["degraded"]) == ("budget_exhausted", ["cached_only"])
    assert await rungs_told(admin, other["id"]) == [{"rung": "cached_only", "path": "1", "budget": 7}]
    assert len(list(sim.ledger.rows())) == 1


async def test_a_degraded_answer_is_kept_apart(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """What a lower tier answered is given again on that rung, and never once the budget is sound."""

    @tollway.agent
    async def asks(run: tollway.Run) -> list[str]:
        reply = await run.llm("hello", tier="brief", max_tokens=100)
        return [reply.route, str(reply.cached), *reply.degraded]

    budgets = SetBudgets([on(Rung.LOWER_TIER)])
    async with make_crew(tiers=LOWER, budgets=budgets) as one:

        async def answer() -> list[str]:
            found: list[str] = json.loads((await ended(admin, await one.submit("asks")))["output"])
            return found

        assert await answer() == ["fast", "False", "lower_tier"]
        assert await answer() == ["fast", "True", "lower_tier"]
        budgets.accounts = []
        assert await answer() == ["brief", "False"]
        budgets.accounts = [on(Rung.LOWER_TIER)]
        assert await answer() == ["brief", "True"]


async def test_a_forced_park_parks(agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection) -> None:
    """P8: a run whose budget stands on `park` gives up its slot before anything is reserved, and its events say why.

    It goes on when the rung is gone, and says at its end that it stood there.
    """

    @tollway.agent
    async def asks(run: tollway.Run) -> str:
        return (await run.llm("hello", tier="fast")).text

    budgets = SetBudgets([on(forced=frozenset((Rung.PARK,)))])
    async with make_crew(budgets=budgets) as one:
        run_id = await one.submit("asks")
        await until_true(lambda: admin.fetchval("select state = 3 from queue where run_id = $1", run_id))
        await until(lambda: one.worker.running == 0)
        opens_in_s, gate = await admin.fetchrow(
            "select extract(epoch from opens_at - now()), gate from queue where run_id = $1", run_id
        )
        assert 3000 < opens_in_s <= 3600
        assert gate == "budget:7"
        assert await event_types(admin, run_id) == ["accepted", "claimed", "degraded", "parked"]
        assert await rungs_told(admin, run_id) == [{"rung": "park", "path": "1", "budget": 7}]
        assert not list(sim.ledger.rows())
        budgets.accounts = []
        await Upkeep(one.database, 9).open_gates([Opening("budget:7", early=True)])
        one.broadcast.publish("queue", "standard")
        row = await ended(admin, run_id)
    assert (row["state"], row["degraded"], row["attempt"]) == ("succeeded", ["park"], 1)


async def test_a_throttled_run_parks_until_its_turn(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Who would wait longer than llm.park_after_s parks, costs no attempt, and says `throttle` once it was served."""

    @tollway.agent
    async def asks(run: tollway.Run) -> list[str]:
        return list((await run.llm("hello", tier="fast", max_tokens=2000, cache="off")).degraded)

    account = on(Rung.THROTTLE, hard_nano=DOLLAR + 3600 * 20_000)
    budgets = SetBudgets([account])
    async with make_crew(budgets=budgets, llm=Llm(timeout_s=30, park_after_s=0.05)) as one:
        first = await ended(admin, await one.submit("asks"))
        assert first["degraded"] == ["throttle"]
        budgets.accounts = [replace(account, spent_nano=account.budget.hard_nano - 3600)]
        await ended(admin, await one.submit("asks"))
        run_id = await one.submit("asks")
        await until_true(lambda: admin.fetchval("select state = 3 from queue where run_id = $1", run_id))
        told = await admin.fetchval("select data from event where run_id = $1 and type = 'parked'", run_id)
    assert "throttled" in told
    assert [one["rung"] for one in await rungs_told(admin, first["id"])] == ["throttle"]
