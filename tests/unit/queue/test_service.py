"""Rates and times of service, from what workers tell."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.queue.service import AGENTS_MAX, OTHERS, WINDOW_S, Served, Service, ServiceRates

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def told(claimed: float, ended: float, busy_s: float, running: float = 0, elapsed_s: float = 0.0) -> dict[str, Any]:
    """What a beat says of one agent's work."""
    return {"standard": {"triage": [claimed, ended, busy_s, running, elapsed_s]}}


def test_counts_are_told_by_lane_and_agent() -> None:
    """A worker tells what it claimed and ended, the seconds that took, and what runs now, for how long."""
    served = Served()
    for _ in range(3):
        served.claimed("standard", "triage")
    served.ended("standard", "triage", 1.5)
    served.claimed("batch", "report")
    found = served.told([("standard", "triage", 2.0), ("standard", "triage", 4.0), ("batch", "report", 7.0)])
    assert found == {"standard": {"triage": [3, 1, 1.5, 2, 6.0]}, "batch": {"report": [1, 0, 0.0, 1, 7.0]}}


def test_what_is_told_is_bounded() -> None:
    """Agents beyond the bound are counted as one, so that a beat stays small; nothing is lost of the sum."""
    served = Served()
    for number in range(3 * AGENTS_MAX):
        served.claimed("standard", f"a{number}")
        served.ended("standard", f"a{number}", 1.0)
    found = served.told([("standard", f"a{number}", 1.0) for number in range(3 * AGENTS_MAX)])["standard"]
    assert len(found) == AGENTS_MAX + 1
    assert sum(row[0] for row in found.values()) == 3 * AGENTS_MAX
    assert found[OTHERS][3] == 2 * AGENTS_MAX
    rates = ServiceRates().take(0.0, {1: {"standard": found}})
    assert rates.of("standard", f"a{3 * AGENTS_MAX - 1}").running == 2 * AGENTS_MAX


@given(
    st.floats(0.2, 50), st.floats(0.05, 20), st.floats(1, 4), st.lists(st.floats(-0.4, 0.4), min_size=20, max_size=20)
)
def test_a_steady_rate_is_found(rate: float, seconds: float, beat_s: float, late: list[float]) -> None:
    """Of a steady worker the rates are right within a beat's share of the window, however its beats jitter."""
    rates, found = ServiceRates(), None
    for number, jitter in enumerate(late):
        at = (number + 1 + jitter) * beat_s
        ended = int(rate * at)
        found = rates.take((number + 1) * beat_s, {1: told(int(rate * (at + seconds)), ended, ended * seconds)})
    assert found is not None
    of = found.of("standard", "triage")
    share = 2 * beat_s / (WINDOW_S - beat_s)
    assert of.claims_per_s == pytest.approx(rate, rel=share, abs=2 / (WINDOW_S - beat_s))
    assert of.ends_per_s == pytest.approx(rate, rel=share, abs=2 / (WINDOW_S - beat_s))
    assert of.seconds == pytest.approx(seconds, rel=1e-3) or (of.seconds is None and of.ends_per_s == 0)
    assert found.lane("standard").ends_per_s == pytest.approx(of.ends_per_s)


def test_idle_time_is_not_averaged_in() -> None:
    """After an hour without work a burst counts over the window at most, not over the hour."""
    rates = ServiceRates()
    rates.take(0, {1: told(5, 5, 5.0)})
    rates.take(3600, {1: told(5, 5, 5.0)})
    found = rates.take(3603, {1: told(305, 305, 305.0)})
    assert found.lane("standard").ends_per_s >= 300 / WINDOW_S


def test_a_late_beat_is_forgiven_and_silence_is_not() -> None:
    """A rate stands while a beat is late by some seconds; of a worker that ends nothing it falls to nothing."""
    rates = ServiceRates()
    for at in range(0, 13, 3):
        found = rates.take(at, {1: told(10 * at, 10 * at, 10.0 * at)})
    assert found.lane("standard").ends_per_s == pytest.approx(10)
    late = rates.take(16, {1: told(120, 120, 120.0)})
    assert late.lane("standard").ends_per_s == pytest.approx(10)
    assert rates.take(12 + 2 * WINDOW_S, {1: told(120, 120, 120.0)}).lane("standard").ends_per_s == 0


def test_workers_come_and_go() -> None:
    """A new worker's first counts are its work; one that is gone is forgotten within the window, and holds nothing."""
    rates = ServiceRates()
    rates.take(0, {1: told(0, 0, 0.0), 2: None})
    found = rates.take(3, {1: told(30, 30, 30.0), 2: told(30, 30, 60.0, 5, 5.0)})
    assert found.lane("standard").ends_per_s == pytest.approx(20)
    assert found.lane("standard").seconds == pytest.approx(1.5)
    assert found.lane("standard").running == 5
    gone = rates.take(6, {1: told(60, 60, 60.0)})
    assert gone.lane("standard").running == 0
    assert rates.take(3 + WINDOW_S, {1: told(180, 180, 180.0)}).lane("standard").ends_per_s == pytest.approx(
        10, rel=0.2
    )


def test_a_restart_is_not_work() -> None:
    """Counts that went back are a new beginning, not a negative rate and not a burst."""
    rates = ServiceRates()
    rates.take(0, {1: told(1000, 1000, 10.0)})
    rates.take(3, {1: told(1100, 1100, 11.0)})
    assert rates.take(6, {1: told(90, 90, 1.0)}).lane("standard").ends_per_s == 0
    assert rates.take(9, {1: told(120, 120, 2.0)}).lane("standard").ends_per_s == pytest.approx(10)


def test_the_mean_is_kept_while_nothing_ends() -> None:
    """While no run ends, the last known mean stands, or the age of those running when that is more."""
    rates = ServiceRates()
    rates.take(0, {1: told(0, 0, 0.0)})
    assert rates.take(3, {1: told(4, 0, 0.0, 4, 12.0)}).lane("standard").seconds == 3
    rates.take(6, {1: told(4, 4, 20.0)})
    later = rates.take(6 + 3 * WINDOW_S, {1: told(4, 4, 20.0)})
    assert later.lane("standard").seconds == 5
    stuck = rates.take(9 + 3 * WINDOW_S, {1: told(5, 4, 20.0, 1, 90.0)})
    assert stuck.of("standard", "triage").seconds == 90
    assert ServiceRates().take(0, {}).lane("standard") == Service()


@given(st.lists(st.tuples(st.floats(0, 20), st.dictionaries(st.integers(1, 3), JSON)), max_size=20))
def test_whatever_is_told_the_rates_are_numbers(looks: list[tuple[float, dict[int, Any]]]) -> None:
    """No beat of an unknown version breaks the rates: they are finite and not negative."""
    rates, now = ServiceRates(), 0.0
    for pause_s, served in looks:
        now += pause_s
        found = rates.take(now, served)
        for one in (*found.lanes.values(), *found.classes.values()):
            values = (one.claims_per_s, one.ends_per_s, one.seconds or 0.0, one.running)
            assert all(math.isfinite(value) and value >= 0 for value in values)


AMOUNT = st.one_of(st.integers(0, 10**9), st.floats(0, 1e9))


@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.dictionaries(st.integers(1, 3), st.lists(AMOUNT, min_size=5, max_size=5))),
        max_size=20,
    )
)
def test_counts_in_any_order_make_numbers(looks: list[tuple[float, dict[int, list[float]]]]) -> None:
    """Whatever counts follow each other, up or down, from whom, the rates are finite and not negative."""
    rates, now = ServiceRates(), 0.0
    for pause_s, counts in looks:
        now += pause_s
        found = rates.take(now, {process_id: told(*row) for process_id, row in counts.items()})
        for one in found.classes.values():
            values = (one.claims_per_s, one.ends_per_s, one.seconds or 0.0, one.running)
            assert all(math.isfinite(value) and value >= 0 for value in values)
