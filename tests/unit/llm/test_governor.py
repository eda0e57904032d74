"""The governor: which route is called, what happens when it fails, and what its guards and books hear."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from governor_kit import ASK, CALLER, MemoryBooks, SetBreaker, SetLimiter, governed, guards, route
from tollway.config import Llm, Tier
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import LlmError
from tollway.hotstate.capacity import DayGrant, Grant, Limits
from tollway.hotstate.handouts import DAY_S
from tollway.ingress.wire.faults import fault_of
from tollway.llm.books import Terms
from tollway.llm.capacity.asking import LimiterOptions
from tollway.llm.capacity.limiter import Limiter

BROKEN = {"fault_rates": {"status_500": 1.0}}


async def failing(*routes: Any, models: dict[str, Any] | None = None, ask: Any = ASK, **more: Any) -> LlmError:
    """The error of one call."""
    terms = more.pop("terms", Terms())
    async with governed(list(routes), models, **more) as (governor, _):
        with pytest.raises(LlmError) as caught:
            await governor.complete(ask, CALLER, MemoryBooks(), terms)
    return caught.value


async def test_capacity_is_asked_for_on_the_callers_account() -> None:
    """P7: a call takes capacity for its lane, tenant and agent, with the tenant's weight."""
    limiter = SetLimiter()
    caller = replace(CALLER, tenant="heavy", weight=4.0)
    async with governed([route("a")], None, guards({"a": limiter}, {})) as (governor, _):
        await governor.complete(ASK, caller, MemoryBooks(), Terms())
    assert [tuple(flow) for flow in limiter.flows] == [(caller.lane, "heavy", caller.agent, 4.0)]


async def test_a_failed_route_is_followed_by_the_next() -> None:
    """Each hop is a call of its own in the books, and the answer says that it stands on the rung `fallback`."""
    books = MemoryBooks()
    limiters = {"a": SetLimiter(), "b": SetLimiter()}
    breakers = {"a": SetBreaker(), "b": SetBreaker()}
    routes = [route("a"), route("b", priority=2)]
    async with governed(routes, {"a": BROKEN}, guards(limiters, breakers)) as (governor, sim):
        result = await governor.complete(ASK, CALLER, books, Terms())
        assert [row.status for row in sim.ledger.rows()] == [500, 200]
    assert books.told == [("intend", "a"), ("provider_5xx", "a"), ("intend", "b"), ("settle", "b")]
    assert (result.route, result.degraded) == ("b", ("fallback",))
    assert books.plans[1].instead_of == ("a", "provider_5xx")
    assert (limiters["a"].ends, limiters["b"].ends) == (["failed"], ["settle"])
    assert (breakers["a"].ends, breakers["b"].ends) == ([False], [True])


async def test_a_route_is_asked_once_a_request() -> None:
    """When every route has failed, the last error is the call's, and nobody was asked twice."""
    books = MemoryBooks()
    async with governed([route("a"), route("b")], {"a": BROKEN, "b": BROKEN}) as (governor, sim):
        with pytest.raises(LlmError) as caught:
            await governor.complete(ASK, CALLER, books, Terms())
        assert len(list(sim.ledger.rows())) == 2
    assert (caught.value.code, caught.value.parks) == ("provider_5xx", False)


async def test_a_request_at_fault_goes_nowhere_else() -> None:
    """What the provider refuses as a bad request is not offered to another route."""
    bad = replace(ASK, messages=[{"role": "user", "content": "x"}], extra={"response_format": {"type": "nonsense"}})
    books = MemoryBooks()
    async with governed([route("a"), route("b", priority=2)]) as (governor, _):
        with pytest.raises(LlmError, match="400"):
            await governor.complete(bad, CALLER, books, Terms())
    assert [what for what, _ in books.told] == ["intend", "refused"]


async def test_an_open_breaker_is_passed_by() -> None:
    """A route whose breaker is open is not called; the books hear which route another stands in for, and why."""
    books = MemoryBooks()
    stand = guards(breakers={"a": SetBreaker(shut=True)})
    async with governed([route("a"), route("b", priority=2)], guarded=stand) as (governor, _):
        result = await governor.complete(ASK, CALLER, books, Terms())
    assert (result.route, books.plans[0].instead_of) == ("b", ("a", "breaker_open"))


async def test_with_every_breaker_open_a_run_parks() -> None:
    """Nothing is sent while all routes are shut; the error says when to ask again, and that a run may park."""
    stand = guards(breakers={"a": SetBreaker(shut=True)})
    error = await failing(route("a"), guarded=stand)
    assert (error.code, error.parks, error.billed) == ("breaker_open", True, False)
    assert error.retry_after_s is not None


async def test_bought_capacity_spills_over_at_once() -> None:
    """On-demand capacity of one priority takes what provisioned has no room for, and that is no fallback."""
    stand = guards({"bought": SetLimiter(free=False, wait=0.1), "spot": SetLimiter()})
    async with governed([route("spot"), route("bought", capacity="provisioned")], guarded=stand) as (governor, _):
        result = await governor.complete(ASK, CALLER, MemoryBooks(), Terms())
    assert (result.route, result.degraded) == ("spot", ())


@pytest.mark.parametrize(("wait_s", "served_by"), [(0.5, "a"), (5.0, "b")])
async def test_a_short_wait_is_taken_before_a_lower_priority(wait_s: float, served_by: str) -> None:
    """Capacity that comes within llm.spill_after_s is waited for; else the next priority serves."""
    stand = guards({"a": SetLimiter(free=False, wait=wait_s), "b": SetLimiter()})
    async with governed([route("a"), route("b", priority=2)], guarded=stand) as (governor, _):
        result = await governor.complete(ASK, CALLER, MemoryBooks(), Terms())
    assert result.route == served_by


async def test_too_long_a_wait_parks() -> None:
    """Capacity that comes later than llm.park_after_s is not waited for in a slot, but the run is back in time."""
    for wait_s, away_s in ((20.0, 13.0), (120.0, 60.0), (0.5, 0.25)):
        stand = guards({"a": SetLimiter(free=False, wait=wait_s, comes=wait_s > 1)})
        error = await failing(route("a"), guarded=stand, llm=Llm(park_after_s=10))
        assert (error.code, error.parks, error.retry_after_s) == ("no_capacity", True, away_s)


async def test_a_spent_day_says_when_the_next_begins() -> None:
    """When a route's tokens of the day are spent the wait that is told is finite, and a header can carry it (P11)."""
    clock = AnchoredClock()
    limiter = Limiter("a", LimiterOptions(Limits(day_tokens=1000), "max_tokens", {}), clock, lambda: None)
    now, today = clock.monotonic(), int(clock.now() // DAY_S)
    limiter.granted(limiter.want(now), Grant(day=DayGrant(today, 0.0, 0.0)), now, 0.5)
    error = await failing(route("a"), guarded=guards({"a": limiter}))
    assert (error.code, error.parks) == ("no_capacity", True)
    assert error.retry_after_s is not None
    assert 0 < error.retry_after_s <= DAY_S
    told = fault_of(error, "openai.chat")
    assert told is not None
    assert int(dict(told[1])[b"retry-after"]) <= DAY_S


async def test_a_429_goes_to_the_limiter_and_the_next_route() -> None:
    """A 429 gives its capacity back, slows the limiter, says nothing to the breaker, and falls to the next route."""
    limiter, breaker = SetLimiter(), SetBreaker()
    stand = guards({"a": limiter}, {"a": breaker})
    models = {"a": {"fault_rates": {"status_429": 1.0}}}
    async with governed([route("a"), route("b", priority=2)], models, stand) as (governor, _):
        result = await governor.complete(ASK, CALLER, MemoryBooks(), Terms())
    assert result.route == "b"
    assert (limiter.ends, limiter.throttles, breaker.ends) == (["release"], [1.0], [None])


async def test_a_tier_falls_back_to_another() -> None:
    """With `[tiers.fast] fallback`, the other tier's routes serve when none of its own can."""
    routes = [route("a"), route("c", tier="capable")]
    async with governed(routes, {"a": BROKEN}, tiers={"fast": Tier(fallback=("capable",))}) as (governor, _):
        result = await governor.complete(ASK, CALLER, MemoryBooks(), Terms())
    assert (result.route, result.degraded) == ("c", ("fallback",))


async def test_a_request_goes_where_it_fits() -> None:
    """A prompt beyond a route's window goes to a larger one; beyond all of them it names field and bound."""
    routes = [route("small", context_tokens=100), route("large", priority=2, context_tokens=4000)]
    long = replace(ASK, messages=[{"role": "user", "content": "word " * 400}])
    async with governed(routes) as (governor, _):
        result = await governor.complete(long, CALLER, MemoryBooks(), Terms())
        assert (result.route, result.degraded) == ("large", ())
    error = await failing(*routes, ask=replace(long, messages=[{"role": "user", "content": "word " * 9000}]))
    assert (error.code, error.field, error.final) == ("too_large", "messages", True)
    assert "4000" in str(error)
    error = await failing(route("a", output_tokens_max=20), ask=ASK)
    assert (error.code, error.field) == ("too_large", "max_tokens")


@pytest.mark.parametrize(
    ("change", "code"),
    [({"tier": "none"}, "unknown_tier"), ({"messages": []}, "refused"), ({"max_tokens": 0}, "refused")],
)
async def test_what_cannot_be_served_takes_nothing(change: dict[str, Any], code: str) -> None:
    """A request that no route could serve is refused before a lease is taken or an intent written (P11)."""
    limiter, books = SetLimiter(), MemoryBooks()
    async with governed([route("a")], guarded=guards({"a": limiter})) as (governor, _):
        with pytest.raises(LlmError) as caught:
            await governor.complete(replace(ASK, **change), CALLER, books, Terms())
    assert (caught.value.code, caught.value.final, books.told, limiter.ends) == (code, True, [], [])


@pytest.mark.parametrize(("call_s", "step_s", "code"), [(0.1, 5.0, "timeout_total"), (5.0, 0.1, "timeout_step")])
async def test_each_timeout_says_which_it_was(call_s: float, step_s: float, code: str) -> None:
    """A call cut by llm.timeout_s may be made elsewhere; one cut by the time of its step may not."""
    error = await failing(
        route("a"), models={"a": {"latency_s": 30.0}}, llm=Llm(timeout_s=call_s), terms=Terms(timeout_s=step_s)
    )
    assert (error.code, error.billed) == (code, True)


async def test_a_call_nobody_waits_for_is_cut() -> None:
    """Cancelled, a call ends at once: capacity stays spent, the breaker hears nothing, the books that it was cut."""
    limiter, breaker, books = SetLimiter(), SetBreaker(), MemoryBooks()
    stand = guards({"a": limiter}, {"a": breaker})
    async with governed([route("a")], {"a": {"latency_s": 30.0}}, stand) as (governor, sim):
        task = asyncio.ensure_future(governor.complete(ASK, CALLER, books, Terms()))
        async with asyncio.timeout(10):
            while not sim.ledger.in_flight:
                await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (books.told[-1], limiter.ends, breaker.ends) == (("cut", "a"), ["failed"], [None])


async def test_an_intent_that_is_refused_gives_capacity_back() -> None:
    """Books that forbid a call (a budget) leave no capacity held, and nothing is sent."""

    class Poor(MemoryBooks):
        async def intend(self, plan: Any) -> Any:
            raise LlmError("budget_exhausted", "no", final=True)

    limiter = SetLimiter()
    async with governed([route("a"), route("b", priority=2)], guarded=guards({"a": limiter})) as (governor, sim):
        with pytest.raises(LlmError):
            await governor.complete(ASK, CALLER, Poor(), Terms())
        assert not list(sim.ledger.rows())
    assert limiter.ends == ["release"]


async def test_a_stream_falls_back_before_its_first_piece() -> None:
    """A route that fails before a piece was given on is followed by the next, within one stream."""
    books = MemoryBooks()
    ask = replace(ASK, stream=True)
    async with governed([route("a"), route("b", priority=2)], {"a": BROKEN}) as (governor, _):
        stream = await governor.stream(ask, CALLER, books, Terms())
        pieces = [delta.text async for _, deltas in stream for delta in deltas]
    assert "".join(pieces) == stream.result.completion.text
    assert stream.result.degraded == ("fallback",)
    assert books.told == [("intend", "a"), ("provider_5xx", "a"), ("intend", "b"), ("settle", "b")]


async def test_a_stream_that_breaks_later_does_not_begin_again() -> None:
    """After the first piece a cut stream is its caller's failure: nobody sees two beginnings."""
    books = MemoryBooks()
    cut = {"fault_rates": {"cut": 1.0}, "tokens_per_s": 2000.0, "output_tokens": 400}
    ask = replace(ASK, stream=True, max_tokens=400)
    async with governed([route("a"), route("b", priority=2)], {"a": cut}) as (governor, _):
        stream = await governor.stream(ask, CALLER, books, Terms())
        with pytest.raises(LlmError):
            async for _ in stream:
                pass
    assert books.told == [("intend", "a"), ("bad_response", "a")]


async def test_a_stream_closed_early_is_settled_once() -> None:
    """Closing a stream, twice even, ends the call and writes what came."""
    books = MemoryBooks()
    ask = replace(ASK, stream=True, max_tokens=400)
    models = {"a": {"tokens_per_s": 50.0, "output_tokens": 400}}
    async with governed([route("a")], models) as (governor, _):
        stream = await governor.stream(ask, CALLER, books, Terms())
        await anext(stream)
        await stream.aclose()
        await stream.aclose()
    assert books.told == [("intend", "a"), ("settle", "a")]
    assert stream.result.completion.usage.estimated
