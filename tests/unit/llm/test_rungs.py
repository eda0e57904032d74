"""A governor under budgets that degrade: what each rung does to a call, and who hears of it (P12)."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from governor_kit import ASK, CALLER, MemoryBooks, SetBreaker, SetBudgets, SetLimiter, governed, guards, route
from tollway.config import Llm, Spend, Tier
from tollway.domain.budgets import Budget, Exhausted, LadderStep, Period, Rung, Stood
from tollway.domain.errors import LlmError
from tollway.ingress.wire.faults import fault_of
from tollway.llm.books import Terms
from tollway.spend.ladder import Account
from tollway.telemetry.metrics import Metrics

DOLLAR = 1_000_000_000
TIERS = [route("cheap", tier="fast"), route("fair", tier="capable"), route("dear", tier="powerful")]
USD = {"cheap": "0.60", "fair": "6.00", "dear": "60.00"}
POWERFUL = replace(ASK, tier="powerful")


def on(*rungs: Rung, spent: int = DOLLAR, ends_in_s: float = 86_400.0, **more: Any) -> Account:
    """A budget of two dollars that stands on these rungs since its first."""
    ladder = tuple(LadderStep(50, rung) for rung in rungs)
    budget = Budget(
        **{"id": 7, "tenant": "acme", "period": Period.DAY, "hard_nano": 2 * DOLLAR, "ladder": ladder} | more
    )
    return Account(budget, spent, time.time() + ends_in_s)


async def test_a_sound_budget_changes_nothing() -> None:
    """Below its first rung a budget is asked once a call, and nothing else happens."""
    books, budgets = MemoryBooks(), SetBudgets([on(Rung.LOWER_TIER, spent=0)])
    async with governed(TIERS, output_usd=USD, budgets=budgets) as (governor, _):
        result = await governor.complete(POWERFUL, CALLER, books, Terms())
    assert (result.route, result.degraded, books.stood, budgets.looks) == ("dear", (), [], 1)


async def test_an_alert_is_told_and_changes_nothing() -> None:
    """The books and the metrics hear of it; the answer is what was asked for."""
    books, metrics = MemoryBooks(), Metrics()
    budgets = SetBudgets([on(soft_nano=DOLLAR)])
    async with governed(TIERS, output_usd=USD, budgets=budgets, metrics=metrics) as (governor, _):
        result = await governor.complete(POWERFUL, CALLER, books, Terms())
    assert (result.route, result.degraded, books.stood) == ("dear", (), [Stood(Rung.ALERT, 7)])
    assert metrics.degraded.value("alert") == 1


async def test_a_lower_tier_serves() -> None:
    """The next cheaper tier serves, the saving is counted against what was asked, and the answer says the rung."""
    books, metrics = MemoryBooks(), Metrics()
    budgets = SetBudgets([on(Rung.LOWER_TIER)])
    async with governed(TIERS, output_usd=USD, budgets=budgets, metrics=metrics) as (governor, _):
        result = await governor.complete(POWERFUL, CALLER, books, Terms())
    plan = books.plans[0]
    assert (result.route, result.degraded, books.stood) == ("fair", ("lower_tier",), [Stood(Rung.LOWER_TIER, 7)])
    assert (plan.tier, plan.asked, plan.request.tier) == ("capable", "powerful", "capable")
    assert result.saved_shift_nano > 0
    assert metrics.degraded.value("lower_tier") == 1


async def test_the_configured_tier_goes_before_the_price() -> None:
    """`[tiers.X] lower` says which tier is the lower one."""
    budgets, tiers = SetBudgets([on(Rung.LOWER_TIER)]), {"powerful": Tier(lower="fast")}
    async with governed(TIERS, output_usd=USD, budgets=budgets, tiers=tiers) as (governor, _):
        assert (await governor.complete(POWERFUL, CALLER, MemoryBooks(), Terms())).route == "cheap"


async def test_lowering_follows_the_operators_shift() -> None:
    """A shifted tier is lowered from where it was shifted to; the books still hear what was asked."""
    books, budgets = MemoryBooks(), SetBudgets([on(Rung.LOWER_TIER)])
    async with governed(TIERS, output_usd=USD, budgets=budgets, shift=lambda _, __: "capable") as (governor, _):
        result = await governor.complete(POWERFUL, CALLER, books, Terms())
    assert (result.route, books.plans[0].asked) == ("cheap", "powerful")


@pytest.mark.parametrize(
    "ask",
    [
        ASK,
        replace(ASK, tier="dear"),
        replace(ASK, tier="powerful", messages=[], inputs=("to embed",)),
        replace(ASK, tier="powerful", max_tokens=5000),
    ],
    ids=["the cheapest", "a model", "embeddings", "too large for it"],
)
async def test_what_cannot_be_lowered_is_served_as_it_is(ask: Any) -> None:
    """Degrading never fails a call: what has no lower tier that could serve it stays, and does not say the rung."""
    routes = [route("cheap", tier="fast"), route("fair", tier="capable", output_tokens_max=4000), TIERS[2]]
    books, budgets = MemoryBooks(), SetBudgets([on(Rung.LOWER_TIER)])
    async with governed(routes, output_usd=USD, budgets=budgets) as (governor, _):
        result = await governor.complete(ask, CALLER, books, Terms())
    assert result.route == ("cheap" if ask.tier == "fast" else "dear")
    assert (result.degraded, books.stood) == ((), [])


async def test_fewer_tokens_are_asked_for() -> None:
    """Half of what was asked for, or the configured share; the reservation is the smaller one."""
    for spend, bound in ((Spend(), 200), (Spend(fewer_tokens_share=0.1), 40)):
        books, budgets = MemoryBooks(), SetBudgets([on(Rung.FEWER_TOKENS)])
        async with governed(TIERS, output_usd=USD, budgets=budgets, spend=spend) as (governor, _):
            result = await governor.complete(replace(ASK, max_tokens=400), CALLER, books, Terms())
        assert (books.plans[0].request.max_tokens, result.degraded) == (bound, ("fewer_tokens",))
        assert result.completion.usage.output_tokens <= bound


async def test_a_model_that_thinks_keeps_its_tokens() -> None:
    """A vendor refuses a bound below the tokens meant for thinking, so such a request is not cut."""
    ask = replace(ASK, max_tokens=4000, extra={"thinking": {"type": "enabled", "budget_tokens": 3000}})
    books, budgets = MemoryBooks(), SetBudgets([on(Rung.FEWER_TOKENS)])
    async with governed(TIERS, output_usd=USD, budgets=budgets) as (governor, _):
        result = await governor.complete(ask, CALLER, books, Terms())
    assert (books.plans[0].request.max_tokens, result.degraded) == (4000, ())


@pytest.mark.parametrize("on_hard", [Rung.PARK, Rung.REFUSE])
@pytest.mark.parametrize("rung", [Rung.CACHED_ONLY, Rung.PARK, Rung.REFUSE])
async def test_a_rung_that_bars_calls_nobody(rung: Rung, on_hard: Rung) -> None:
    """Nothing is reserved and nobody called; the error says which budget, until when, and whether a run parks."""
    books, metrics, account = MemoryBooks(), Metrics(), on(rung, on_hard=on_hard)
    async with governed(TIERS, output_usd=USD, budgets=SetBudgets([account]), metrics=metrics) as (governor, sim):
        for ask in (governor.complete, governor.stream):
            with pytest.raises(LlmError, match="budget 7") as caught:
                await ask(replace(ASK, stream=ask == governor.stream), CALLER, books, Terms())
        assert not list(sim.ledger.rows())
    error, parks = caught.value, rung is Rung.PARK or (rung is Rung.CACHED_ONLY and on_hard is Rung.PARK)
    assert (error.code, error.parks, error.final) == ("budget_exhausted", parks, not parks)
    assert error.exhausted == Exhausted(7, account.ends, parks)
    assert (books.told, books.stood) == ([], [Stood(rung, 7)])
    assert metrics.degraded.value(rung.value) == 1


async def test_whom_the_budget_does_not_cover_is_not_degraded() -> None:
    """A budget of another agent, lane or tenant leaves a call alone."""
    for other in ({"agent": "other"}, {"lane": "batch"}, {"tenant": "other"}, {"task_type": "x"}, {"key": "k"}):
        budgets = SetBudgets([on(Rung.REFUSE, **other)])
        async with governed(TIERS, output_usd=USD, budgets=budgets) as (governor, _):
            assert (await governor.complete(ASK, CALLER, MemoryBooks(), Terms())).degraded == ()


async def test_rungs_add_up_with_a_fallback() -> None:
    """A lower tier, fewer tokens and a fallback are all told, in the order in which they came."""
    routes = [*TIERS, route("spare", tier="capable", priority=2)]
    stand = guards(breakers={"fair": SetBreaker(shut=True)})
    books, metrics = MemoryBooks(), Metrics()
    budgets = SetBudgets([on(Rung.LOWER_TIER), on(Rung.FEWER_TOKENS, id=8)])
    async with governed(routes, None, stand, output_usd=USD, budgets=budgets, metrics=metrics) as (governor, _):
        result = await governor.complete(POWERFUL, CALLER, books, Terms())
    assert (result.route, result.degraded) == ("spare", ("fewer_tokens", "lower_tier", "fallback"))
    assert books.stood == [Stood(Rung.FEWER_TOKENS, 8), Stood(Rung.LOWER_TIER, 7)]
    assert metrics.degraded.value("fallback") == 1


async def test_a_stream_stands_on_rungs_too() -> None:
    """It knows them from its beginning, and its result says them."""
    budgets = SetBudgets([on(Rung.LOWER_TIER, Rung.FEWER_TOKENS)])
    async with governed(TIERS, output_usd=USD, budgets=budgets) as (governor, _):
        stream = await governor.stream(replace(POWERFUL, stream=True), CALLER, MemoryBooks(), Terms())
        assert stream.degraded == ("fewer_tokens", "lower_tier")
        async for _ in stream:
            pass
    assert (stream.result.route, stream.result.degraded) == ("fair", ("fewer_tokens", "lower_tier"))


@pytest.mark.parametrize(("parks", "rung"), [(True, Rung.PARK), (False, Rung.REFUSE)])
async def test_money_that_cannot_be_reserved_is_the_last_rung(parks: bool, rung: Rung) -> None:
    """P4: when the reservation itself finds the budget spent, the call stood on what comes at the end of it."""

    class Spent(MemoryBooks):
        async def intend(self, plan: Any) -> Any:
            error = LlmError("budget_exhausted", "spent")
            error.exhausted = Exhausted(7, None, parks)
            raise error

    limiter, metrics, books = SetLimiter(), Metrics(), Spent()
    async with governed([route("a")], None, guards({"a": limiter}), metrics=metrics) as (governor, _):
        with pytest.raises(LlmError):
            await governor.complete(ASK, CALLER, books, Terms())
    assert (books.stood, limiter.ends) == ([Stood(rung, 7)], ["release"])
    assert metrics.degraded.value(rung.value) == 1


async def test_a_throttled_call_is_paced() -> None:
    """What a minute's worth of the rest pays for goes at once, the next call is told to come later, and parks."""
    budgets = SetBudgets([on(Rung.THROTTLE, hard_nano=DOLLAR + 86_400 * 500, ladder=(LadderStep(1, Rung.THROTTLE),))])
    async with governed(TIERS, output_usd=USD, budgets=budgets, llm=Llm(park_after_s=5)) as (governor, sim):
        made: list[str] = []

        async def spend() -> None:
            while True:
                made.extend((await governor.complete(ASK, CALLER, MemoryBooks(), Terms())).degraded)

        with pytest.raises(LlmError) as caught:
            await spend()
        paid = sum(row.cost_nano for row in sim.ledger.rows())
    error = caught.value
    assert (error.code, error.parks, error.final) == ("throttled", True, False)
    assert error.exhausted is not None
    assert (error.exhausted.budget, error.exhausted.parks) == (7, True)
    assert error.retry_after_s is not None
    assert error.retry_after_s > 0
    assert set(made) == {"throttle"}
    assert paid <= 500 * (60 + 60) + 35_000
    fault = fault_of(error, "openai.chat")
    assert fault is not None
    assert (fault[0].status, dict(fault[1])[b"retry-after"]) == (429, b"%d" % -(-error.retry_after_s // 1))


async def test_the_interactive_lane_is_let_go_first() -> None:
    """P6: of throttled calls that wait, those of the interactive lane go before what came earlier."""
    budgets = SetBudgets(
        [
            on(
                Rung.THROTTLE,
                spent=0,
                hard_nano=40_000 * 100,
                ends_in_s=100,
                ladder=(LadderStep(0, Rung.THROTTLE),),
            )
        ]
    )
    order: list[str] = []
    async with governed(TIERS, output_usd=USD, budgets=budgets, llm=Llm(park_after_s=1000)) as (governor, _):

        async def ask(lane: str) -> None:
            await governor.complete(replace(ASK, max_tokens=4000), replace(CALLER, lane=lane), MemoryBooks(), Terms())
            order.append(lane)

        await asyncio.gather(
            *(ask("standard") for _ in range(2)), *(ask("batch") for _ in range(2)), ask("interactive")
        )
    assert order.index("interactive") <= 2


async def test_a_call_does_not_wait_beyond_its_own_time() -> None:
    """A step's timeout bounds its wait for its turn as well."""
    budgets = SetBudgets([on(Rung.THROTTLE, spent=DOLLAR, hard_nano=DOLLAR + 10)])
    async with governed(TIERS, output_usd=USD, budgets=budgets) as (governor, _):
        await governor.complete(ASK, CALLER, MemoryBooks(), Terms())
        with pytest.raises(LlmError) as caught:
            await governor.complete(ASK, CALLER, MemoryBooks(), Terms(timeout_s=0.2))
    assert caught.value.code == "throttled"


async def test_who_waits_is_let_go_when_the_throttle_is_lifted() -> None:
    """An operator's word reaches calls that wait already."""
    account = on(Rung.THROTTLE, spent=DOLLAR, hard_nano=DOLLAR + 86_400 * 500)
    budgets = SetBudgets([account])
    async with governed(TIERS, output_usd=USD, budgets=budgets, llm=Llm(park_after_s=1000)) as (governor, _):
        big = replace(ASK, max_tokens=40_000)
        await governor.complete(big, CALLER, MemoryBooks(), Terms())
        waiting = asyncio.ensure_future(governor.complete(big, CALLER, MemoryBooks(), Terms(timeout_s=900)))
        await asyncio.sleep(0)
        budgets.accounts = [replace(account, budget=replace(account.budget, lifted=frozenset((Rung.THROTTLE,))))]
        async with asyncio.timeout(20):
            assert (await waiting).route == "cheap"


async def test_a_throttled_budget_with_nothing_left_is_exhausted() -> None:
    """Where the hard limit's own rung is lifted, the pace of no money is to wait for the next period."""
    account = on(Rung.THROTTLE, spent=2 * DOLLAR, lifted=frozenset((Rung.PARK,)))
    async with governed(TIERS, output_usd=USD, budgets=SetBudgets([account])) as (governor, _):
        with pytest.raises(LlmError) as caught:
            await governor.complete(ASK, CALLER, MemoryBooks(), Terms())
    assert (caught.value.code, caught.value.exhausted) == ("budget_exhausted", Exhausted(7, account.ends, parks=True))
