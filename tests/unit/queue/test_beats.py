"""Who is held dead, and who is not."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.queue.beats import Beat, BeatWatch


def test_an_unchanged_beat_is_dead_after_its_ttl() -> None:
    """A beat that stands still is forgiven for its TTL on the watcher's clock, and no longer."""
    watch = BeatWatch(gap_max_s=10)
    assert watch.look([Beat(1, 7, 12)], 100) == []
    assert watch.look([Beat(1, 7, 12)], 106) == []
    assert watch.look([Beat(1, 7, 12)], 111.9) == []
    assert watch.look([Beat(1, 7, 12)], 112) == [1]


def test_a_beat_that_moves_in_any_direction_lives() -> None:
    """Any change is a sign of life, also a counter that begins anew."""
    watch = BeatWatch(gap_max_s=10)
    for at, beat in ((0, 5), (8, 6), (16, 1), (24, 0), (32, 1)):
        assert watch.look([Beat(1, beat, 12)], at) == []


def test_after_a_gap_everybody_gets_a_full_ttl_again() -> None:
    """Time in which the watcher could not see (an outage, its own suspension) counts for nobody."""
    watch = BeatWatch(gap_max_s=10)
    assert watch.look([Beat(1, 7, 12)], 0) == []
    assert watch.look([Beat(1, 7, 12)], 9) == []
    assert watch.look([Beat(1, 7, 12)], 60) == []
    assert watch.look([Beat(1, 7, 12)], 69) == []
    assert watch.look([Beat(1, 7, 12)], 72) == [1]


def test_each_process_has_its_own_ttl_and_those_gone_are_forgotten() -> None:
    """The TTL is the row's; a row that went away and comes back starts afresh."""
    watch = BeatWatch(gap_max_s=10)
    watch.look([Beat(1, 0, 3), Beat(2, 0, 30)], 0)
    assert watch.look([Beat(1, 0, 3), Beat(2, 0, 30)], 5) == [1]
    assert watch.look([Beat(2, 0, 30)], 6) == []
    assert watch.look([Beat(1, 0, 3), Beat(2, 0, 30)], 7) == []


@given(
    st.lists(st.tuples(st.floats(0.1, 9.9), st.booleans()), min_size=1, max_size=40),
    st.floats(1, 40),
)
def test_nobody_is_dead_before_a_whole_ttl_without_a_beat(looks: list[tuple[float, bool]], ttl_s: float) -> None:
    """Whatever the rhythm of looks, the dead are exactly those whose beat was seen unchanged for the TTL."""
    watch, now, beat, since = BeatWatch(gap_max_s=10), 0.0, 0, 0.0
    watch.look([Beat(1, beat, ttl_s)], now)
    for pause_s, beats in looks:
        now += pause_s
        if beats:
            beat, since = beat + 1, now
        assert watch.look([Beat(1, beat, ttl_s)], now) == ([1] if now - since >= ttl_s else [])
