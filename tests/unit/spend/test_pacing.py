"""Pacing: money that goes at the rate at which it lasts, urgent calls first, nobody for ever (P12)."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tollway.spend.pacing import BURST_S, Pacer, Turn

COSTS = st.lists(st.integers(1, 5000), min_size=1, max_size=60)


def drained(pacer: Pacer, now: float, until: float) -> list[tuple[float, Turn]]:
    """Let everybody go at the moment the pacer says, as a timer would; when each went."""
    went = []
    while (next_s := pacer.next_s(now)) < math.inf and now + next_s <= until:
        now += next_s
        went += [(now, turn) for turn in pacer.admit(now)]
    return went


def test_a_minute_of_the_rate_goes_at_once() -> None:
    """It begins full; what is beyond waits for what comes in."""
    pacer = Pacer(10.0, 0.0)
    turns = [pacer.join(100.0, urgent=False, now=0.0) for _ in range(8)]
    assert [turn.gone for turn in turns] == [True] * 6 + [False] * 2
    assert pacer.next_s(0.0) == 10.0
    assert [at for at, _ in drained(pacer, 0.0, 100.0)] == [10.0, 20.0]


def test_a_call_dearer_than_the_bucket_goes_in_the_end() -> None:
    """It goes once the bucket is full, and what it took beyond is paid off before the next goes."""
    pacer = Pacer(10.0, 0.0)
    assert pacer.join(5000.0, urgent=False, now=0.0).gone
    follower = pacer.join(1.0, urgent=False, now=0.0)
    assert not follower.gone
    assert drained(pacer, 0.0, 1e6) == [(440.1, follower)]


def test_urgent_calls_go_first_and_equals_in_turn() -> None:
    """P6: the interactive lane does not wait for work that came before it."""
    pacer = Pacer(10.0, 0.0)
    pacer.join(600.0, urgent=False, now=0.0)
    batch = [pacer.join(100.0, urgent=False, now=0.0) for _ in range(3)]
    first, second = (pacer.join(100.0, urgent=True, now=0.0) for _ in range(2))
    assert [turn for _, turn in drained(pacer, 0.0, 1e6)] == [first, second, *batch]


def test_the_forecast_of_a_wait_is_kept() -> None:
    """Who is told how long he would wait, and joins, waits so long: behind all, or as urgent behind the urgent."""
    for urgent in (False, True):
        pacer = Pacer(10.0, 0.0)
        pacer.join(600.0, urgent=False, now=0.0)
        pacer.join(50.0, urgent=False, now=0.0)
        pacer.join(70.0, urgent=True, now=0.0)
        said = pacer.wait_s(100.0, urgent, now=0.0)
        turn = pacer.join(100.0, urgent=urgent, now=0.0)
        assert said == (17.0 if urgent else 22.0)
        assert next(at for at, other in drained(pacer, 0.0, 1e6) if other is turn) == said


def test_what_a_call_did_not_cost_is_put_back() -> None:
    """The next may have it; who leaves the line takes nothing."""
    pacer = Pacer(10.0, 0.0)
    pacer.join(600.0, urgent=False, now=0.0)
    leaver, follower = (pacer.join(100.0, urgent=False, now=0.0) for _ in range(2))
    pacer.leave(leaver)
    pacer.give(100.0)
    assert pacer.admit(0.0) == [follower]
    pacer.leave(follower)
    assert pacer.wait_s(100.0, urgent=False, now=0.0) == 0.0


def test_without_money_nobody_goes() -> None:
    """At a rate of nothing the wait is infinite, whatever was saved up; what costs nothing goes all the same."""
    pacer = Pacer(10.0, 0.0)
    pacer.pace(0.0, 1.0)
    assert pacer.wait_s(1.0, urgent=True, now=9.0) == math.inf
    assert not pacer.join(1.0, urgent=True, now=9.0).gone
    assert pacer.next_s(9.0) == math.inf
    pacer.pace(1.0, 10.0)
    assert pacer.next_s(10.0) == 1.0


@given(st.floats(0.1, 1000), COSTS, st.integers(10, 5000))
def test_never_more_than_the_rate_and_a_minute_of_it(rate: float, costs: list[int], until: int) -> None:
    """Up to any time no more goes than came in, the first minute's worth and one call."""
    pacer = Pacer(rate, 0.0)
    spent = sum(cost for cost in costs if pacer.join(float(cost), urgent=False, now=0.0).gone)
    spent += sum(turn.nano for _, turn in drained(pacer, 0.0, float(until)))
    assert spent <= rate * (BURST_S + until) + max(costs) + 1e-3


@given(st.floats(0.1, 1000), COSTS)
def test_everybody_goes(rate: float, costs: list[int]) -> None:
    """Nobody waits for ever: in the end the line is empty, and it was never idle with money for its first."""
    pacer = Pacer(rate, 0.0)
    for cost in costs:
        pacer.join(float(cost), urgent=cost % 3 == 0, now=0.0)
    went = drained(pacer, 0.0, math.inf)
    assert pacer.waiting == 0
    last = went[-1][0] if went else 0.0
    assert last <= max(0.0, sum(costs) / rate - BURST_S) + max(costs) / rate + 1e-3


@given(st.integers(1, 400), st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_the_rest_lasts_for_the_rest_of_the_period(worst: int, parts: list[int]) -> None:
    """Under a flood, calls that cost a part of their worst case, the pace set by what is left: all but the end of the
    money is spent by the end of the period, and at no time more than its share, a minute's worth and a call.
    """
    period_s, limit = 3600.0, 100_000.0
    pacer, spent, now = Pacer(limit / period_s, 0.0), 0.0, 0.0
    for number in range(20_000):
        left_s = period_s - now
        if left_s < 1 or spent >= limit:
            break
        pacer.pace((limit - spent) / left_s, now)
        turn = pacer.join(float(worst), urgent=False, now=now)
        while not turn.gone and now < period_s:
            now += min(pacer.next_s(now) + 1e-6, period_s - now)
            pacer.admit(now)
        if not turn.gone:
            break
        cost = min(worst, worst * parts[number % len(parts)] / 50)
        pacer.give(worst - cost)
        spent += cost
        assert spent <= limit * (now + 2 * BURST_S) / period_s + worst
    if spent < limit and number < 19_999:
        assert spent >= 0.9 * limit - 2 * worst
