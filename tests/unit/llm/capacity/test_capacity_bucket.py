"""The local bucket: what it lets through over any time, what comes back, and what a late timer costs (nothing)."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.hotstate.capacity import NOTHING, Vector
from tollway.llm.capacity.bucket import BURST, Bucket

LIMITS: Vector = (100.0, 0.0, 0.0, 0.0)


def calls(number: float) -> Vector:
    return (number, 0.0, 0.0, 0.0)


def leased(rate: float, until: float = math.inf, now: float = 0.0) -> Bucket:
    """A bucket that accrues."""
    bucket = Bucket(LIMITS, 1.0, now)
    bucket.call = calls(1)
    bucket.lease(calls(rate), until, now, now)
    return bucket


@given(
    st.floats(0.1, 100),
    st.lists(st.tuples(st.floats(0, 0.5), st.sampled_from([0.2, 1.0, 1.0, 3.0])), max_size=80),
)
def test_never_more_than_rate_times_time_and_burst(rate: float, steps: list[tuple[float, float]]) -> None:
    """Over any time, what was taken is at most rate x time and the burst: one call, or BURST seconds of the rate."""
    bucket, now, taken = leased(rate), 0.0, 0.0
    for pause, charge in steps:
        now += pause
        bucket.advance(now)
        if bucket.fits(calls(charge)):
            bucket.take(calls(charge))
            taken += charge
        assert taken <= rate * now + max(1.0, rate * BURST) + 1e-4


@given(st.lists(st.floats(0.001, 0.2), min_size=1, max_size=50))
def test_late_timers_lose_nothing(lates: list[float]) -> None:
    """While calls wait, whatever the times at which somebody looks, all of the rate is there to be taken."""
    bucket, now, taken = leased(10.0), 0.0, 0.0
    bucket.waited = calls(1)
    for late in lates:
        now += late
        bucket.advance(now)
        while bucket.fits(calls(1)):
            bucket.take(calls(1))
            taken += 1
    assert taken > 10.0 * now - 1.001


def test_a_lease_that_ran_out_accrues_no_more() -> None:
    """After its end nothing comes in, whenever somebody looks."""
    bucket = leased(1.0, until=0.5)
    bucket.advance(100.0)
    assert bucket.level[0] == pytest.approx(0.5)
    assert not bucket.lasts(0.5)
    assert bucket.ready_at(calls(1)) == math.inf


def test_what_shrinks_holds_from_when_it_was_asked_what_grows_from_when_it_came() -> None:
    """An exchange that took a second: the lower rate is counted for that second, the higher one is not."""
    shrunk, grown = leased(2.0), leased(1.0)
    shrunk.waited = grown.waited = calls(10)
    shrunk.lease(calls(0.5), 9.0, asked=1.0, now=2.0)
    grown.lease(calls(3.0), 9.0, asked=1.0, now=2.0)
    assert shrunk.level[0] == pytest.approx(2.0 * 1 + 0.5 * 1)
    assert grown.level[0] == pytest.approx(2.0)


def test_promises_come_in_when_they_are_due() -> None:
    """An amount promised for later is foreseen, is not there before, and is there then."""
    bucket = Bucket(LIMITS, 1.0, 0.0)
    bucket.promise(2.0, calls(1))
    bucket.promise(1.0, calls(1))
    assert bucket.ready_at(calls(1)) == 1.0
    assert bucket.ready_at(calls(2)) == 2.0
    assert bucket.ready_at(calls(3)) == math.inf
    bucket.advance(1.5)
    assert bucket.level[0] == 1
    assert bucket.promised()[0] == 2
    assert bucket.drain()[0] == 2
    assert bucket.promised() == NOTHING


def test_a_debt_is_paid_off_first() -> None:
    """A settlement above the estimate takes the level below nothing; only then is there room again."""
    bucket = leased(1.0)
    bucket.give(calls(-2))
    assert bucket.ready_at(calls(1)) == pytest.approx(3.0)
    bucket.advance(2.9)
    assert not bucket.fits(calls(1))
    bucket.advance(3.0)
    assert bucket.fits(calls(1))


def test_dimensions_without_a_limit_never_bind() -> None:
    """Tokens where only requests are limited are no concern."""
    bucket = leased(1.0)
    bucket.advance(1.0)
    assert bucket.fits((1.0, 1e9, 1e9, 0.0))
    bucket.take((1.0, 1e9, 1e9, 0.0))
    assert bucket.level[1] == 0
