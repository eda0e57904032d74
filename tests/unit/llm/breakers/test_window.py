"""The sliding window of a route's calls."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.llm.breakers.window import Tally, Window

CALL = st.tuples(st.floats(0, 3), st.booleans(), st.booleans(), st.floats(0.0001, 600))


@given(st.lists(CALL, max_size=200))
def test_it_counts_what_a_list_of_all_calls_would(calls: list[tuple[float, bool, bool, float]]) -> None:
    """The sums are those of the calls within the window, but for the edge of one bucket, and never negative."""
    window, now, kept = Window(12.0), 0.0, []
    for pause_s, failed, slow, latency_s in calls:
        now += pause_s
        kept.append((now, failed, slow))
        window.add(now, failed=failed, slow=slow, latency_s=latency_s)
        inside = [call for call in kept if call[0] > now - 12.0]
        surely = [call for call in kept if call[0] > now - 12.0 + 0.1]
        found = window.whole(now)
        assert len(surely) <= found.calls <= len(inside)
        assert sum(call[1] for call in surely) <= found.failed <= sum(call[1] for call in inside)
        assert sum(call[2] for call in surely) <= found.slow <= sum(call[2] for call in inside)
    assert window.whole(now + 12.2) == Tally()
    assert window.p99_s(now + 12.2) is None


@given(st.lists(st.floats(0.0001, 600), min_size=1, max_size=500))
def test_the_p99_is_within_five_percent(latencies: list[float]) -> None:
    """The p99 of the histogram differs from the true one by 5 % at most."""
    window = Window(60.0)
    for i, latency_s in enumerate(latencies):
        window.add(i * 0.01, latency_s=latency_s)
    true = sorted(latencies)[ceil(0.99 * len(latencies)) - 1]
    assert window.p99_s(5.0) == pytest.approx(true, rel=0.0501)


def test_the_latest_calls_hide_behind_no_minute_of_good_ones() -> None:
    """After 18,000 good calls, the shortest recent span of 20 calls is about the last 20."""
    window = Window(60.0)
    for i in range(18_000):
        window.add(i / 300)
    for i in range(40):
        window.add(61 + i / 300, failed=True)
    latest = window.recent(61.2, 20)
    assert latest == Tally(40, 40, 0)
    assert window.whole(61.2).calls > 17_000


def test_its_size_does_not_grow_with_the_rate() -> None:
    """Ten times the calls take no more buckets, nor a longer way through them."""
    sizes = []
    for rate in (1_000, 10_000):
        window = Window(6.0)
        for i in range(rate * 7):
            window.add(i / rate, latency_s=0.001 * (1 + i % 10))
        sizes.append(sum(len(bucket.bins) + 1 for bucket in window._buckets))
    assert sizes[1] <= sizes[0] * 1.1


def test_a_call_counted_before_its_end_is_put_right() -> None:
    """A latency counted while the call was under way is replaced by the true one, even if the first has left."""
    window = Window(6.0)
    window.add(0.0, slow=True, latency_s=5.0)
    window.correct(1.0, 5.0, 30.0)
    assert window.whole(1.0) == Tally(1, 0, 1)
    assert window.p99_s(1.0) == pytest.approx(30.0, rel=0.0501)
    assert window.p99_s(6.5) == pytest.approx(30.0, rel=0.0501)
