"""Burn and forecast of budgets, without I/O."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.spend.burn import FADE_S, HORIZON_S, MEMORY_S, Burn, first_look, forecast

RATES = st.floats(0, 1e9)
PASSED_S = st.floats(0.5, 86_400)


def spent_at(rate: float, seconds: int, step_s: int = 5) -> Burn:
    """A burn that was looked at every few seconds while money went at a steady rate."""
    burn = first_look(0.0, 0)
    for at in range(step_s, seconds + 1, step_s):
        burn = burn.after(float(at), round(rate * at))
    return burn


@given(st.floats(1e3, 1e9), st.integers(60, 7200))
def test_a_steady_rate_is_seen_as_it_is(rate: float, seconds: int) -> None:
    """Money that goes at one rate shows that rate, lately and in the mean, from the first minute on."""
    burn = spent_at(rate, seconds)
    assert burn.recent == pytest.approx(rate, rel=0.1)
    assert burn.mean == pytest.approx(rate, rel=0.1)
    if seconds > 600:
        assert burn.recent == pytest.approx(rate, rel=0.01)


@given(st.floats(1e3, 1e8), st.floats(1.01, 1000))
def test_a_steady_rate_exhausts_when_it_should(rate: float, times: float) -> None:
    """At a steady rate the money is gone when what is left, divided by the rate, says."""
    burn = spent_at(rate, 3600)
    gone_at = burn.exhausts_at(round(burn.spent_nano * times))
    assert gone_at is not None
    assert gone_at - burn.at == pytest.approx(3600 * (times - 1), rel=0.02, abs=2)


@given(
    st.lists(st.tuples(PASSED_S, st.integers(-(10**9), 10**12)), min_size=1, max_size=30),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
)
def test_a_forecast_never_runs_backwards(looks: list[tuple[float, int]], one_s: float, other_s: float) -> None:
    """Whatever was seen, more time means no less spent, a higher limit no earlier end, and no rate is negative."""
    at, spent, burn = 0.0, 10**13, first_look(0.0, 10**13)
    for passed_s, more in looks:
        at, spent = at + passed_s, spent + more
        burn = burn.after(at, spent)
    assert burn.recent >= 0
    assert burn.mean >= 0
    early, late = sorted((one_s, other_s))
    assert spent <= burn.projected_nano(at + early) <= burn.projected_nano(at + late) + 1
    low, high = spent + 10**6, spent + 10**9
    first, second = burn.exhausts_at(low), burn.exhausts_at(high)
    assert second is None or (first is not None and at <= first <= second <= at + HORIZON_S)


@given(RATES, st.floats(1, 1e6))
def test_the_end_is_when_the_projection_says(rate: float, ahead_s: float) -> None:
    """A limit set at what will have been spent by a time is reached at that time."""
    burn = Burn(0.0, 0, 7200.0, round(7200 * rate), 3 * rate)
    limit = burn.projected_nano(burn.at + ahead_s)
    gone_at = burn.exhausts_at(limit)
    if limit > burn.spent_nano + 1000:
        assert gone_at is not None
        assert gone_at - burn.at == pytest.approx(ahead_s, rel=0.01, abs=1)


def test_a_burst_is_not_taken_for_the_rest_of_the_month() -> None:
    """A day at a calm rate and ten minutes at a hundred times of it: the next hour is dear, a month is not."""
    burn = first_look(0.0, 0)
    for minute in range(1, 24 * 60 + 1):
        burn = burn.after(minute * 60.0, minute * 60_000)
    for _ in range(10):
        burn = burn.after(burn.at + 60.0, burn.spent_nano + 6_000_000)
    assert burn.recent > 50 * 1000
    month_s = 30 * 86_400.0
    assert burn.projected_nano(burn.at + month_s) - burn.spent_nano < 3 * burn.mean * month_s
    hour = burn.projected_nano(burn.at + 3600) - burn.spent_nano
    assert hour > 20 * 1000 * 3600


def test_what_is_spent_no_more_fades() -> None:
    """An hour after the last cent the recent rate is a few parts in a thousand of what it was."""
    burn = spent_at(1e6, 3600)
    quiet = burn.after(burn.at + 3600, burn.spent_nano)
    assert quiet.recent < burn.recent * math.exp(-3600 / MEMORY_S) * 1.05
    assert quiet.mean == pytest.approx(burn.mean / 2)


def test_a_look_at_the_same_moment_changes_nothing() -> None:
    """Two looks at one time, or one whose clock is behind, leave the burn as it is."""
    burn = spent_at(1e6, 600)
    assert burn.after(burn.at, burn.spent_nano + 5) is burn
    assert burn.after(burn.at - 1, burn.spent_nano + 5) is burn


def test_what_is_shown_is_within_the_period() -> None:
    """A forecast shows dollars an hour, and an end only if it comes before the period's; after one look, nothing."""
    burn = spent_at(1e6, 3600)
    assert forecast(None, 10**12, None) is None
    assert forecast(first_look(0.0, 5), 10**12, None) is None
    shown = forecast(burn, 2 * burn.spent_nano, None)
    assert shown is not None
    assert shown.nano_per_hour == pytest.approx(3.6e9, rel=0.01)
    assert shown.exhausts_at == pytest.approx(7200, rel=0.01)
    before = forecast(burn, 2 * burn.spent_nano, 7000.0)
    assert before is not None
    assert before.exhausts_at is None
    unlimited = forecast(burn, None, 7000.0)
    assert unlimited is not None
    assert unlimited.exhausts_at is None
    assert FADE_S > MEMORY_S
