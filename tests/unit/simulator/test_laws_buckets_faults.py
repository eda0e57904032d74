"""The pure parts of the simulated provider, in virtual time and with seeded chance."""

import math
from random import Random

import pytest

from tollway.simulator.buckets import Charge, Gauges, Limits, Rates, TokenBucket
from tollway.simulator.faults import Fault, FaultLaw
from tollway.simulator.laws import Law


@pytest.mark.parametrize(
    ("law", "cv"),
    [
        (Law(0.05), 0.0),
        (Law(0.05, "exponential"), 1.0),
        (Law(0.05, "lognormal", 0.5), 0.5),
        (Law(0.05, "uniform", 0.2), 0.2),
        (Law(0.05, "uniform"), 1 / math.sqrt(3)),
    ],
)
def test_a_law_has_its_mean_and_deviation(law: Law, cv: float) -> None:
    """Over many draws each law shows the mean and coefficient of variation it was given, and nothing below 0."""
    rng = Random(1)
    values = [law.draw(rng) for _ in range(40_000)]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    assert mean == pytest.approx(0.05, rel=0.03)
    assert deviation / mean == pytest.approx(cv, rel=0.05, abs=1e-9)
    assert min(values) >= 0


def test_a_law_refuses_a_deviation_it_cannot_have() -> None:
    """A cv that contradicts the law is an error, not silently ignored."""
    with pytest.raises(ValueError, match="exponential"):
        Law(1, "exponential", 0.5)
    with pytest.raises(ValueError, match="uniform"):
        Law(1, "uniform", 0.9)


def test_a_law_of_mean_zero_draws_zero() -> None:
    """A mean of 0 is no latency, whatever the law."""
    assert Law(0, "lognormal").draw(Random(1)) == 0
    assert Law(0, "exponential").draw(Random(1)) == 0


def test_a_bucket_gives_its_depth_at_once_and_then_its_rate() -> None:
    """Asked as often as can be for 60 s, a bucket passes depth + its rate over the time, no more and no less."""
    limits = Limits(Rates(rpm=600, bucket_s=2), 0.0)
    passed = sum(limits.admit(Charge(0), tick / 1000) is None for tick in range(60_001))
    assert passed == 20 + 600


def test_what_is_refused_takes_nothing() -> None:
    """Hammering an empty bucket does not delay its refill, and no request is lost to a refusal for tokens."""
    limits = Limits(Rates(rpm=60, tpm=6000, bucket_s=1), 0.0)
    refusal = limits.admit(Charge(200), 0.0)
    assert refusal is not None
    assert refusal.what == "tokens"
    assert refusal.retry_after_s == math.inf
    assert limits.admit(Charge(100), 0.0) is None
    assert all(limits.admit(Charge(1), step / 100) is not None for step in range(1, 100))
    assert limits.admit(Charge(1), 1.0) is None


def test_a_refusal_says_when_to_come_again() -> None:
    """Coming back after `retry_after_s` succeeds, a moment earlier does not."""
    limits = Limits(Rates(tpm=60_000, bucket_s=1), 0.0)
    assert limits.admit(Charge(900), 0.0) is None
    refusal = limits.admit(Charge(600), 0.0)
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(0.5)
    assert limits.admit(Charge(600), 0.499) is not None
    assert limits.admit(Charge(600), 0.5001) is None


def test_a_bucket_of_requests_holds_at_least_one() -> None:
    """A limit of a few requests a minute still lets them through, one at a time."""
    limits = Limits(Rates(rpm=6, bucket_s=1), 0.0)
    assert [at for at in range(31) if limits.admit(Charge(0), at) is None] == [0, 10, 20, 30]


def test_gauges_tell_what_is_left() -> None:
    """The gauges show limit, remaining units and time until full."""
    limits = Limits(Rates(rpm=600, tpm=60_000, bucket_s=1), 0.0)
    limits.admit(Charge(250), 0.0)
    requests, tokens, *others = limits.gauges(0.0)
    assert others == [None, None]
    assert requests is not None
    assert tokens is not None
    assert (requests.limit, requests.remaining, requests.reset_s) == (600, 9, pytest.approx(0.1))
    assert (tokens.limit, tokens.remaining, tokens.reset_s) == (60_000, 750, pytest.approx(0.25))
    assert Limits(Rates(), 0.0).gauges(0.0) == Gauges()


def test_a_clock_that_stands_still_gives_nothing() -> None:
    """A reading not later than the last one adds no units."""
    bucket = TokenBucket(60, 1, 5.0)
    bucket.take(1)
    assert bucket.level(5.0) == 0
    assert bucket.level(4.0) == 0


def test_faults_come_at_their_rates_and_repeat_with_the_seed() -> None:
    """Shares of faults match the rates; the same seed gives the same faults in the same order."""
    law = FaultLaw({Fault.STATUS_429: 0.1, Fault.SLOW: 0.2, Fault.CUT: 0.0})
    rng = Random(3)
    drawn = [law.draw(rng) for _ in range(20_000)]
    assert drawn.count(Fault.STATUS_429) / 20_000 == pytest.approx(0.1, abs=0.01)
    assert drawn.count(Fault.SLOW) / 20_000 == pytest.approx(0.2, abs=0.01)
    assert Fault.CUT not in drawn
    rng = Random(3)
    assert drawn == [law.draw(rng) for _ in range(20_000)]


def test_fault_rates_above_one_are_refused() -> None:
    """Rates are shares of all calls, so they cannot exceed 1 in all."""
    with pytest.raises(ValueError, match="more than 1"):
        FaultLaw({Fault.SLOW: 0.6, Fault.CUT: 0.6})
