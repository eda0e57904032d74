"""Quantiles of latencies."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.simulator.load.latency import Latency, quantile


def test_known_quantiles() -> None:
    """Of 1 to 1000 ms, the p99 is 990 ms."""
    latency = Latency.of([n / 1000 for n in range(1000, 0, -1)])
    assert (latency.count, latency.p50, latency.p90, latency.p99, latency.p999) == (1000, 500, 900, 990, 999)
    assert (latency.max, latency.mean) == (1000, 500.5)


def test_nothing_measured_is_zero() -> None:
    """No samples make no figure and no error."""
    assert Latency.of([]) == Latency()


@given(st.lists(st.floats(0, 100), min_size=1), st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_quantile_is_the_least_sample_that_covers_its_share(samples: list[float], share: float) -> None:
    """At least the share lies at or below it, and no smaller sample would do."""
    ranked = sorted(samples)
    value = quantile(ranked, share)
    assert sum(sample <= value for sample in ranked) >= share * len(ranked)
    assert sum(sample < value for sample in ranked) < max(share * len(ranked), 1)
