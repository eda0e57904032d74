"""Spikes of a tenant's spending, without I/O."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.record.spending import Lately
from tollway.spend.spikes import DAYS, HOURS_MIN, OVER_SHARE, SpikeRule, is_spike, usual_hour_nano

USD = 1_000_000_000
RULE = SpikeRule()
NOW = 500_000
SPENT = st.integers(0, 1000 * USD)
PASTS = st.dictionaries(st.integers(NOW - 24 * DAYS, NOW - 1), SPENT, max_size=200)


def steady(level: int, hours: int) -> dict[int, int]:
    return {NOW - age: level for age in range(1, hours + 1)}


def test_little_is_known_of_a_new_tenant() -> None:
    """Nothing is judged before three whole hours are known; hours without spending count once there was some."""
    assert usual_hour_nano({}, NOW) is None
    assert usual_hour_nano(steady(USD, HOURS_MIN - 1), NOW) is None
    assert usual_hour_nano({NOW: USD, NOW + 1: USD}, NOW) is None
    assert usual_hour_nano({NOW - HOURS_MIN: USD}, NOW) is not None


@given(st.integers(1, 1000 * USD), st.integers(HOURS_MIN, 24 * DAYS))
def test_a_steady_tenant_is_no_spike(level: int, hours: int) -> None:
    """Who always spends the same usually spends just that, and half as much again is no spike."""
    usual = usual_hour_nano(steady(level, hours), NOW)
    assert usual is not None
    assert abs(usual - level) <= 1
    lately = Lately(level, level * 3 // 2)  # all of an hour in ten minutes
    assert not is_spike(lately, usual, SpikeRule(least_nano=0), was=False)


@given(PASTS)
def test_usual_lies_within_the_past(past: dict[int, int]) -> None:
    """What is usual is never beyond the dearest hour known."""
    usual = usual_hour_nano(past, NOW)
    if usual is not None:
        assert 0 <= usual <= max(past.values()) * 1.000001


@given(PASTS, st.integers(NOW - 24 * DAYS, NOW - 1), SPENT)
def test_a_dearer_past_means_no_more_spikes(past: dict[int, int], hour: int, more: int) -> None:
    """More spent in an hour of the past that is known already never lowers what is usual."""
    usual = usual_hour_nano(past, NOW)
    if usual is not None and hour >= min(past):
        dearer = usual_hour_nano({**past, hour: past.get(hour, 0) + more}, NOW)
        assert dearer is not None
        assert dearer >= usual * 0.999999


@given(SPENT, SPENT, st.floats(0, 1e12), st.floats(1.5, 100), SPENT)
def test_more_spent_is_no_less_of_a_spike(short: int, rest: int, usual: float, factor: float, more: int) -> None:
    """A spike stays one when more is spent, begins only above the least sum, and never ends where one would begin."""
    rule = SpikeRule(factor, USD)
    lately = Lately(short, short + rest)
    begins = is_spike(lately, usual, rule, was=False)
    assert not begins or lately.long_nano >= USD
    assert not begins or is_spike(Lately(short + more, short + rest + more), usual, rule, was=False)
    assert not begins or is_spike(lately, usual, rule, was=True)


@given(st.integers(USD, 1000 * USD), st.floats(0.6, 0.9))
def test_between_its_two_levels_a_spike_goes_on_and_none_begins(usual: int, part: float) -> None:
    """Just below the level at which one begins a spike goes on; below half of it, it is over."""
    level = RULE.factor * usual * part
    lately = Lately(0, int(level))
    assert not is_spike(lately, usual, RULE, was=False)
    assert is_spike(lately, usual, RULE, was=True)
    over = Lately(0, int(RULE.factor * usual * OVER_SHARE) - 1)
    assert not is_spike(over, usual, RULE, was=True)


def test_a_nightly_job_is_usual_at_its_hour_alone() -> None:
    """What comes every night at an hour is no spike at that hour, an hour late neither; at noon it is one."""
    past = {NOW - age: USD // 100 for age in range(1, 24 * 10)}
    past |= {NOW - 24 * day: 50 * USD for day in range(1, 10)}
    night = Lately(50 * USD, 50 * USD)
    at_its_hour, late = usual_hour_nano(past, NOW), usual_hour_nano(past, NOW + 1)
    assert at_its_hour is not None
    assert late is not None
    assert not is_spike(night, at_its_hour, RULE, was=False)
    assert not is_spike(night, late, RULE, was=False)
    noon = usual_hour_nano({hour: nano for hour, nano in past.items() if hour < NOW - 12}, NOW - 12)
    assert noon is not None
    assert is_spike(night, noon, RULE, was=False)


def test_a_new_level_becomes_usual() -> None:
    """A spike that goes on is the new level within a day: then it is over."""
    calm = {NOW - age: USD for age in range(1, 200)}
    lately = Lately(2 * USD, 10 * USD)
    was, hours = True, 0
    while was and hours < 48:
        usual = usual_hour_nano({**calm, **{NOW + hour: 10 * USD for hour in range(hours)}}, NOW + hours)
        assert usual is not None
        was = is_spike(lately, usual, RULE, was=was)
        hours += 1
    assert 1 < hours < 24


def test_small_sums_are_no_spike() -> None:
    """Below the least sum nothing is a spike, whatever was usual."""
    assert not is_spike(Lately(USD - 1, USD - 1), 0.0, RULE, was=False)
    assert is_spike(Lately(USD, USD), 0.0, RULE, was=False)
