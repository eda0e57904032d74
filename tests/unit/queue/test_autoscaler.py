"""Workers of one machine come at once and go slowly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.queue.autoscaler import WORKERS_MAX, Autoscaler, Bounds, parse_bounds


def test_bounds_are_read() -> None:
    """`1..4`, or the most alone."""
    assert parse_bounds("1..4") == parse_bounds("4") == parse_bounds(" 1..4 ") == Bounds(1, 4)
    assert parse_bounds("3..3") == Bounds(3, 3)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [("", "as in 1..4"), ("a..b", "as in 1..4"), ("1-4", "as in 1..4"), ("0..4", "begin with 1"), ("0", "begin with 1"),
     ("4..1", "write 1..4"), ("-1..4", "as in 1..4"), ("1..999", str(WORKERS_MAX)), ("1..2..3", "as in 1..4")],
)  # fmt: skip
def test_bad_bounds_are_told_with_the_remedy(text: str, remedy: str) -> None:
    """What cannot be meant is refused in words that mend it."""
    with pytest.raises(ValueError, match=remedy.replace(".", r"\.")):
        parse_bounds(text)


def test_growth_is_at_once_and_at_most_doubles() -> None:
    """A need of many comes as 1, 2, 4 and the most, look by look."""
    scaler = Autoscaler(Bounds(1, 6), 30)
    seen, workers = [], 1
    for at in range(4):
        workers = scaler.look(at, 50, workers, 0).workers
        seen.append(workers)
    assert seen == [2, 4, 6, 6]


def test_shrinking_waits_and_goes_one_by_one() -> None:
    """Fewer are wanted for the whole hold before one goes; the next goes when that one has ended."""
    scaler = Autoscaler(Bounds(1, 4), 30)
    assert scaler.look(0, 4, 4, 0).workers == 4
    assert scaler.look(29, 1, 4, 0).workers == 4
    step = scaler.look(31, 1, 4, 0)
    assert (step.workers, step.why) == (3, "at most 1 wanted for 30 s")
    assert scaler.look(32, 1, 3, 1).workers == 3
    assert scaler.look(33, 1, 3, 0).workers == 2
    assert scaler.look(34, 3, 2, 0).workers == 3
    assert scaler.look(40, 1, 3, 0).workers == 3


def test_not_knowing_changes_nothing() -> None:
    """While the signal is not known nobody comes or goes, and what was low before does not count on."""
    scaler = Autoscaler(Bounds(1, 4), 30)
    scaler.look(0, 1, 3, 0)
    for at in range(1, 40):
        assert scaler.look(at, None, 3, 0).workers == 3
    assert scaler.look(41, 1, 3, 0).workers == 3


def test_fewer_than_the_least_are_filled_up() -> None:
    """The least stands whatever is wanted."""
    assert Autoscaler(Bounds(2, 4), 30).look(0, 0, 1, 0).workers == 2
    assert Autoscaler(Bounds(2, 4), 30).look(0, None, 0, 0).workers == 2


@given(
    st.integers(1, 5), st.integers(0, 10), st.floats(1, 60),
    st.lists(st.tuples(st.floats(0.1, 20), st.none() | st.integers(0, 100)), max_size=60),
)  # fmt: skip
def test_the_number_keeps_its_bounds(
    least: int, more: int, hold_s: float, looks: list[tuple[float, int | None]]
) -> None:
    """Whatever is wanted: within the bounds, never more than doubled, never more than one fewer, and none fewer while
    as many were wanted within the hold."""
    scaler, now, workers = Autoscaler(Bounds(least, least + more), hold_s), 0.0, least
    wanted_at: list[tuple[float, int]] = []
    for pause_s, wanted in looks:
        now += pause_s
        wanted_at.append((now, workers if wanted is None else wanted))
        after = scaler.look(now, wanted, workers, 0).workers
        assert least <= after <= least + more
        assert workers - 1 <= after <= 2 * workers
        if after < workers:
            assert all(most < workers for at, most in wanted_at if at >= now - hold_s)
        workers = after
