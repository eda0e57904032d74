"""How slots are shared between lanes."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.queue.shares import room

LANES = ("interactive", "standard", "batch")
shares_of_lanes = st.fixed_dictionaries({lane: st.sampled_from([0.0, 0.1, 0.2, 0.3]) for lane in LANES})


def test_a_lane_may_use_what_no_other_lane_is_owed() -> None:
    """An idle worker gives a lane all but the others' shares."""
    assert room("batch", {}, {"interactive": 0.2, "standard": 0.3}, 100) == 50
    assert room("interactive", {}, {}, 100) == 100


def test_a_flood_leaves_the_others_their_share() -> None:
    """Batch fills what it may; interactive still finds its share, and no more than what is free."""
    running = {"batch": 80}
    shares = {"interactive": 0.2}
    assert room("batch", running, shares, 100) == 0
    assert room("interactive", running, shares, 100) == 20
    assert room("standard", running, shares, 100) == 0


@given(
    st.lists(st.tuples(st.sampled_from(LANES), st.integers(1, 30), st.booleans()), max_size=60),
    shares_of_lanes,
    st.integers(1, 200),
)
def test_slots_are_never_oversold_and_shares_never_lent_for_good(
    moves: list[tuple[str, int, bool]], shares: dict[str, float], slots: int
) -> None:
    """However runs come and go, running ≤ slots, and a lane below its share finds at least one slot for itself."""
    running = dict.fromkeys(LANES, 0)
    for lane, count, ends in moves:
        if ends:
            running[lane] = max(0, running[lane] - count)
        else:
            running[lane] += min(count, room(lane, running, shares, slots))
        assert sum(running.values()) <= slots
        for each in LANES:
            assert room(each, running, shares, slots) >= max(0, int(shares[each] * slots) - running[each])
