"""Work that has waited too long goes first every other time (P7)."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.queue.ageing import aged_lanes, lane_order

LANES = ("interactive", "standard", "batch")


def test_lanes_age_by_their_own_measure() -> None:
    """A lane's oldest work is old when it has waited longer than its lane allows; lanes without a measure never age."""
    oldest_at = {"interactive": 80.0, "batch": 80.0, "other": 0.0}
    assert aged_lanes(oldest_at, {"interactive": 10.0, "standard": 1.0, "batch": 60.0}, 100.0) == {"interactive"}
    assert aged_lanes(oldest_at, {"interactive": 10.0, "batch": 19.0}, 100.0) == {"interactive", "batch"}


def test_an_aged_lane_goes_first_every_other_time() -> None:
    """Otherwise lanes are claimed from in their order."""
    assert lane_order(LANES, {"batch"}, 0) == ["interactive", "standard", "batch"]
    assert lane_order(LANES, {"batch"}, 1) == ["batch", "interactive", "standard"]
    assert lane_order(LANES, (), 1) == list(LANES)


@given(st.permutations(LANES), st.sets(st.sampled_from(LANES)), st.integers(0, 100))
def test_every_lane_has_its_turn(lanes: list[str], aged: set[str], turn: int) -> None:
    """An order leaves nobody out and keeps the order among the aged and among the others."""
    order = lane_order(lanes, aged, turn)
    assert sorted(order) == sorted(lanes)
    for group in (aged, set(lanes) - aged):
        assert [lane for lane in order if lane in group] == [lane for lane in lanes if lane in group]
