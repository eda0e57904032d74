"""One limiter, granted by hand: who may go, what comes back, who is given up on; nothing is lost or doubled."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capacity_kit import VirtualClock, VirtualLoop
from tollway.domain.errors import LlmError
from tollway.hotstate.capacity import NOTHING, FlowKey, Grant, Later, Limits, Vector
from tollway.llm.capacity.asking import LimiterOptions
from tollway.llm.capacity.costs import Cost, Counts, Flow
from tollway.llm.capacity.holds import Hold
from tollway.llm.capacity.limiter import Limiter
from tollway.llm.capacity.open import OpenLimiter

A, B = Flow("standard", "a", "agent"), Flow("standard", "b", "agent")
COST = Cost(50, 20, 100)
RATES = Limits((1.0, 1000.0, 0.0, 0.0))
Story = Callable[["Alone"], Coroutine[Any, Any, None]]


class Alone:
    """A limiter without a store: grants are given by the test."""

    def __init__(self, limits: Limits, counts: Counts) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.clock = VirtualClock(loop)
        self.woken = 0
        self.limiter = Limiter("route", LimiterOptions(limits, counts, {"standard": 1.0}), self.clock, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def grant(self, **given: Any) -> None:
        """Exchange, and be granted this at once."""
        now = self.clock.monotonic()
        self.limiter.granted(self.limiter.want(now), Grant(**given), now, 0.5)

    def take(self, cost: Cost = COST, flow: Flow = A, patience_s: float = 60.0) -> "asyncio.Task[Hold]":
        """A caller."""
        until = self.clock.monotonic() + patience_s
        return asyncio.get_running_loop().create_task(self.limiter.take(cost, flow, until))

    @property
    def level(self) -> Vector:
        """What is in the purse."""
        self.limiter._purse.bucket.advance(self.clock.monotonic())
        return self.limiter._purse.bucket.level


def alone(story: Story, limits: Limits = RATES, counts: Counts = "max_tokens") -> None:
    """Run a story in virtual time."""

    async def main() -> None:
        await story(Alone(limits, counts))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_nothing_goes_before_a_grant_and_the_first_caller_asks_at_once() -> None:
    """Without a lease no call goes; the first one that waits makes the exchange due now, and goes with its grant."""

    async def story(town: Alone) -> None:
        assert town.limiter.try_take(COST, A) is None
        assert town.limiter.due_at == math.inf
        caller = town.take()
        await asyncio.sleep(0)
        assert town.limiter.due_at == town.clock.monotonic()
        assert town.woken == 1
        town.grant(amount=(1.0, 150.0, 0.0, 0.0))
        await asyncio.sleep(0)
        assert caller.result().charge == (1, 150, 50, 100)
        assert town.limiter.try_take(COST, A) is None

    alone(story)


@pytest.mark.parametrize(
    ("counts", "back"),
    [("max_tokens", 150 - (40 + 100)), ("actual", 70 - (40 + 10)), ("input", 50 - 40)],
    ids=["OpenAI", "Anthropic", "Gemini"],
)
def test_a_settlement_corrects_once(counts: Counts, back: float) -> None:
    """What was charged beyond what the vendor counts comes back, once, whatever is said afterwards."""

    async def story(town: Alone) -> None:
        town.grant(amount=(5.0, 1000.0, 0.0, 0.0))
        hold = town.limiter.try_take(COST, A)
        assert hold is not None
        left = town.level
        hold.settle(40, 10)
        assert town.level == (left[0], left[1] + back, 0, 0)
        hold.settle(0, 0)
        hold.release()
        hold.failed()
        assert town.level == (left[0], left[1] + back, 0, 0)
        assert town.limiter.shown()["in_use"] == 0

    alone(story, counts=counts)


def test_what_was_never_sent_comes_back_whole_what_failed_stays_charged() -> None:
    """release() gives all back, failed() nothing; both end the call."""

    async def story(town: Alone) -> None:
        town.grant(amount=(5.0, 1000.0, 0.0, 0.0))
        before = town.level
        first = town.limiter.try_take(COST, A)
        assert first is not None
        first.release()
        assert town.level == before
        second = town.limiter.try_take(COST, A)
        assert second is not None
        second.failed()
        assert town.level == (4, 850, 0, 0)
        assert town.limiter.shown()["in_use"] == 0

    alone(story)


def test_who_is_cancelled_gives_back_what_he_was_handed() -> None:
    """A caller cancelled in the very moment it was handed capacity loses none of it, and the next one goes."""

    async def story(town: Alone) -> None:
        first, second, third = town.take(), town.take(), town.take()
        await asyncio.sleep(0)
        second.cancel()
        town.grant(amount=(1.0, 150.0, 0.0, 0.0))
        first.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert first.cancelled()
        assert second.cancelled()
        assert third.done()
        assert town.limiter.waiting == 0
        assert town.limiter.shown()["in_use"] == 1

    alone(story)


def test_a_deadline_is_kept_and_says_when_to_come_again() -> None:
    """Who is not served in time gets `no_capacity` with the time that the queue would take."""

    async def story(town: Alone) -> None:
        callers = [town.take(patience_s=5.0) for _ in range(20)]
        await asyncio.sleep(0)
        town.grant(rates=(1.0, 1000.0, 0.0, 0.0), ttl_s=100.0)
        began = town.clock.monotonic()
        done = await asyncio.gather(*callers, return_exceptions=True)
        assert town.clock.monotonic() == pytest.approx(began + 5.0)
        served = [outcome for outcome in done if isinstance(outcome, Hold)]
        refused = [outcome for outcome in done if isinstance(outcome, LlmError)]
        assert len(served) == 5
        assert len(refused) == 15
        assert refused[0].code == "no_capacity"
        assert refused[0].route == "route"
        assert max(error.retry_after_s or 0 for error in refused) == pytest.approx(15.0, abs=1.1)
        with pytest.raises(LlmError, match="no room in time"):
            await town.limiter.take(COST, A, town.clock.monotonic())

    alone(story)


def test_the_wait_is_predicted() -> None:
    """0 with room, else what is before one at the leased rate; the headroom is what nobody wants."""

    async def story(town: Alone) -> None:
        town.grant(rates=(1.0, 1000.0, 0.0, 0.0), amount=(1.0, 150.0, 0.0, 0.0), spare=0.4, ttl_s=100.0)
        assert town.limiter.wait_s(COST) == 0
        assert town.limiter.headroom == 0.4
        assert town.limiter.try_take(COST, A)
        assert town.limiter.wait_s(COST) == pytest.approx(1.0)
        callers = [town.take() for _ in range(4)]
        await asyncio.sleep(0)
        town.grant(rates=(1.0, 1000.0, 0.0, 0.0), spare=0.4, ttl_s=100.0)
        assert town.limiter.wait_s(COST) == pytest.approx(5.0)
        assert town.limiter.headroom == 0
        await asyncio.gather(*callers)

    alone(story)


def test_a_share_from_before_the_crowd_is_no_forecast() -> None:
    """A process that held next to nothing does not send a sudden crowd away: once it is told of, its share decides."""

    async def story(town: Alone) -> None:
        little = {"rates": (0.1, 100.0, 0.0, 0.0), "ttl_s": 100.0}
        first = town.take()
        await asyncio.sleep(0)
        town.grant(**little)
        crowd = [town.take() for _ in range(9)]
        await asyncio.sleep(0)
        assert town.limiter.wait_s(COST) == pytest.approx(11.0)
        town.grant(**little)
        assert town.limiter.wait_s(COST) == pytest.approx(110.0)
        for caller in (first, *crowd):
            caller.cancel()
        await asyncio.gather(first, *crowd, return_exceptions=True)

    alone(story)


def test_promised_calls_go_when_they_are_due() -> None:
    """Calls leased one by one go at their times, not before and not much later."""

    async def story(town: Alone) -> None:
        callers = [town.take(), town.take()]
        await asyncio.sleep(0)
        one: Vector = (1.0, 150.0, 0.0, 0.0)
        town.grant(later=(Later(2.0, one), Later(4.0, one)))
        began = town.clock.monotonic()
        await callers[0]
        assert town.clock.monotonic() - began == pytest.approx(2.0, abs=0.01)
        await callers[1]
        assert town.clock.monotonic() - began == pytest.approx(4.0, abs=0.01)

    alone(story)


def test_flows_are_served_by_their_weights() -> None:
    """Of equally many callers, the flow of three times the weight is served three times as often."""

    async def story(town: Alone) -> None:
        callers = {flow: [town.take(flow=flow) for _ in range(30)] for flow in (A, B)}
        await asyncio.sleep(0)
        weights = {FlowKey("standard", "a", "agent"): 0.75, FlowKey("standard", "b", "agent"): 0.25}
        town.grant(rates=(1.0, 1000.0, 0.0, 0.0), weights=weights, ttl_s=100.0)
        await asyncio.sleep(20.5)
        assert sum(caller.done() for caller in callers[A]) == 15
        assert sum(caller.done() for caller in callers[B]) == 5
        for caller in (*callers[A], *callers[B]):
            caller.cancel()

    alone(story)


def test_a_refusal_pauses_empties_and_is_reported() -> None:
    """After a 429 nothing goes until the vendor said, what was saved up is gone, and the exchange is due at once."""

    async def story(town: Alone) -> None:
        town.grant(amount=(5.0, 1000.0, 0.0, 0.0), rates=(1.0, 1000.0, 0.0, 0.0), ttl_s=100.0)
        assert town.limiter.try_take(COST, A)
        town.limiter.throttled(3.0)
        assert town.limiter.try_take(COST, A) is None
        assert town.limiter.due_at == town.clock.monotonic()
        assert town.limiter.wait_s(COST) == pytest.approx(3.0)
        assert town.limiter.shown()["throttled_total"] == 1
        want = town.limiter.want(town.clock.monotonic())
        assert want.throttled_s == 3.0
        town.limiter.unanswered(want, town.clock.monotonic())
        assert town.limiter.want(town.clock.monotonic()).throttled_s == 3.0
        assert town.limiter.want(town.clock.monotonic()).throttled_s is None
        began = town.clock.monotonic()
        await town.take()
        assert town.clock.monotonic() - began == pytest.approx(3.0, abs=0.01)

    alone(story)


def test_what_headers_tell_is_heeded() -> None:
    """A lower limit is passed on, a higher one is not; nothing remaining empties the purse, without a pause."""

    async def story(town: Alone) -> None:
        town.grant(amount=(5.0, 1000.0, 0.0, 0.0), rates=(1.0, 1000.0, 0.0, 0.0), ttl_s=100.0)
        town.limiter.told("requests", 30.0, 5)
        town.limiter.told("tokens", 1e9, None)
        town.limiter.told("output_tokens", -1, -1)
        assert town.level[0] == 5
        town.limiter.told("requests", None, 0)
        assert town.level[0] == 0
        assert town.limiter.want(town.clock.monotonic()).told == (0.5, 0, 0, 0)
        began = town.clock.monotonic()
        await town.take()
        assert town.clock.monotonic() - began == pytest.approx(1.0, abs=0.01)

    alone(story)


def test_what_is_given_back_is_not_spent_again() -> None:
    """Without a leased rate and without callers, what is left goes back with the next exchange."""

    async def story(town: Alone) -> None:
        town.grant(amount=(2.0, 500.0, 0.0, 0.0))
        want = town.limiter.want(town.clock.monotonic())
        assert want.returned == (2, 500, 0, 0)
        assert town.limiter.try_take(COST, A) is None

    alone(story)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "settle", "fail", "release", "cancel", "wait"]), st.integers(1, 400), st.booleans()
        ),
        max_size=60,
    )
)
def test_no_story_spends_more_than_was_granted(steps: list[tuple[str, int, bool]]) -> None:
    """However calls come, end, fail, are cancelled or settled: what was spent and what is left is what was granted."""

    async def story(town: Alone) -> None:
        town.grant(amount=(10.0, 2000.0, 0.0, 0.0), ttl_s=1e6)
        callers: list[asyncio.Task[Hold]] = []
        spent_calls, spent_tokens = 0.0, 0.0
        running: list[Hold] = []
        for what, size, other in steps:
            if what == "take":
                callers.append(town.take(Cost(size, 10, 10), B if other else A))
            elif what == "cancel" and callers:
                callers[size % len(callers)].cancel()
            elif what == "wait":
                await asyncio.sleep(0.01)
            elif running:
                hold = running.pop(size % len(running))
                if what == "settle":
                    hold.settle(size, 0)
                    spent_calls, spent_tokens = spent_calls + 1, spent_tokens + size + 10
                elif what == "fail":
                    hold.failed()
                    spent_calls, spent_tokens = spent_calls + 1, spent_tokens + hold.charge[1]
                else:
                    hold.release()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            served = [caller for caller in callers if caller.done()]
            running += [caller.result() for caller in served if not caller.cancelled()]
            callers = [caller for caller in callers if not caller.done()]
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        held_calls = sum(hold.charge[0] for hold in running)
        held_tokens = sum(hold.charge[1] for hold in running)
        assert town.level[0] + held_calls + spent_calls == pytest.approx(10)
        assert town.level[1] + held_tokens + spent_tokens == pytest.approx(2000)
        assert town.limiter.shown()["in_use"] == len(running)
        assert town.limiter.waiting == 0
        assert town.limiter._demand.waiting() == NOTHING

    alone(story)


def test_a_route_without_limits_lets_all_through_and_heeds_a_pause() -> None:
    """Nobody waits, until the vendor asks for a pause; then as long as it asked, or not at all if that is too long."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        clock = VirtualClock(loop)
        limiter = OpenLimiter("route", clock)
        holds = [limiter.try_take(COST, A) for _ in range(1000)]
        assert all(holds)
        for hold in holds:
            assert hold is not None
            hold.settle(60, 30)
        used = limiter.shown()["used"]
        assert isinstance(used, dict)
        assert used["requests"] == 1000
        assert used["tokens"] == 90_000
        limiter.throttled(2.0)
        assert limiter.try_take(COST, A) is None
        assert limiter.headroom == 0
        with pytest.raises(LlmError) as refused:
            await limiter.take(COST, A, clock.monotonic() + 1)
        assert refused.value.code == "no_capacity"
        began = clock.monotonic()
        await limiter.take(COST, A, began + 5)
        assert clock.monotonic() - began == pytest.approx(2.0, abs=0.01)
        assert limiter.wait_s(COST) == 0

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
