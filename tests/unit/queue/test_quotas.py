"""Quotas of tenants, as properties."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.spans import DAY_S, MINUTE_S, SLICE_S, day_of, slice_of
from tollway.queue.quotas import RateBucket, day_opens_at, minute_opens_in, minute_use, part_of

RATES = st.floats(0.01, 5_000)
PAUSES = st.lists(st.floats(0, 3), min_size=1, max_size=200)


@given(RATES, PAUSES)
def test_no_span_lets_through_more_than_rate_and_burst(rate: float, pauses: list[float]) -> None:
    """Whoever asks whenever, no span of time lets more through than its seconds times the rate, and one burst."""
    bucket, now, passed = RateBucket(0.0), 0.0, []
    for pause in pauses:
        now += pause
        if not bucket.take(now, rate):
            passed.append(now)
    for first, since in enumerate(passed):
        for count, until in enumerate(passed[first:], 1):
            assert count <= (until - since) * rate + max(1.0, rate) + 1e-6 * count


@given(RATES, PAUSES)
def test_what_is_given_back_lets_as_many_others_through(rate: float, pauses: list[float]) -> None:
    """Requests that give back at once what they took are as if nobody had asked."""
    plain, busy, now = RateBucket(0.0), RateBucket(0.0), 0.0
    for pause in pauses:
        now += pause
        for _ in range(3):
            if not busy.take(now, rate):
                busy.give_back()
        assert (plain.take(now, rate) == 0.0) is (busy.take(now, rate) == 0.0)


@given(RATES)
def test_the_wait_a_refusal_names_is_right(rate: float) -> None:
    """Whoever comes again after the seconds of the refusal passes; whoever comes markedly sooner does not."""
    for early in (False, True):
        bucket = RateBucket(0.0)
        wait_s = 0.0
        while not wait_s:
            wait_s = bucket.take(10.0, rate)
        again = bucket.take(10.0 + wait_s * (0.9 if early else 1.0), rate)
        assert (again > 0) is early


@given(st.floats(0.1, 1000), st.floats(0.05, 0.95))
def test_who_asks_less_than_the_rate_is_never_refused(rate: float, share: float) -> None:
    """A steady stream below the rate passes whole."""
    bucket = RateBucket(0.0)
    assert all(bucket.take(at / (rate * share), rate) == 0.0 for at in range(500))


@given(RATES, st.lists(st.floats(0, 1e6), min_size=1, max_size=8))
def test_processes_share_a_rate_and_take_no_more_than_it(rate: float, asked: list[float]) -> None:
    """Parts of processes that know the same add up to the rate, none is nothing, and more demand gets no less."""
    parts = [part_of(rate, own, asked[:at] + asked[at + 1 :]) for at, own in enumerate(asked)]
    assert math.isclose(math.fsum(parts), rate, rel_tol=1e-6)
    assert all(part > 0 for part in parts)
    assert [part for _, part in sorted(zip(asked, parts, strict=True))] == sorted(parts)


@given(st.floats(1, 1000), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_demand_below_the_rate_is_served_whole_wherever_it_comes(rate: float, shape: list[float]) -> None:
    """While all together ask for nine tenths of the rate or less, each process has a part that covers its own."""
    asked = [part / (sum(shape) or 1.0) * rate * 0.9 for part in shape]
    for at, own in enumerate(asked):
        assert part_of(rate, own, asked[:at] + asked[at + 1 :]) >= own * (1 - 1e-9)


def test_a_process_tells_what_it_was_asked() -> None:
    """The demand told is the requests a second, refused ones included, and is forgotten within seconds."""
    bucket = RateBucket(0.0)
    for at in range(2000):
        bucket.take(at / 100, 5.0)
    assert math.isclose(bucket.asked_per_s(20.0), 100, rel_tol=0.05)
    assert bucket.asked_per_s(40.0) < 1


USES = st.lists(st.tuples(st.floats(0, 200), st.integers(1, 5_000)), max_size=40)


@given(USES)
def test_a_minute_never_counts_too_little(uses: list[tuple[float, int]]) -> None:
    """The tokens counted are at least those of the last 60 s, at most those of the last 60 s and a slice."""
    slices: dict[int, int] = {}
    for at, tokens in uses:
        slices[slice_of(at)] = slices.get(slice_of(at), 0) + tokens
    counted = minute_use(slices, 200.0)
    assert counted >= sum(tokens for at, tokens in uses if at > 200.0 - MINUTE_S)
    assert counted <= sum(tokens for at, tokens in uses if at >= 200.0 - MINUTE_S - SLICE_S)


@given(USES, st.integers(1, 20_000), st.integers(0, 3_000))
def test_the_minute_opens_when_it_says(uses: list[tuple[float, int]], limit: int, held: int) -> None:
    """A closed minute opens at the moment named and not before it, as long as what is held leaves room."""
    slices: dict[int, int] = {}
    for at, tokens in uses:
        slices[slice_of(at)] = slices.get(slice_of(at), 0) + tokens
    opens_in = minute_opens_in(slices, held, limit, 200.0)
    if opens_in == 0.0:
        assert held + minute_use(slices, 200.0) < limit
    elif held < limit:
        assert minute_opens_in(slices, held, limit, 200.0 + opens_in) == 0.0
        assert minute_opens_in(slices, held, limit, 200.0 + opens_in - 0.01) > 0.0


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**6), st.floats(0, 4e9))
def test_a_spent_day_opens_at_the_next_midnight(used: int, held: int, limit: int, now: float) -> None:
    """A day whose tokens are used or under way opens at the UTC midnight that comes, and only then."""
    opens_at = day_opens_at(used, held, limit, now)
    assert (opens_at is None) is (used + held < limit)
    if opens_at is not None:
        assert now < opens_at <= now + DAY_S
        assert opens_at % DAY_S == 0
        assert day_of(opens_at) != day_of(now)
