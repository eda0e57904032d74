"""How slots are shared between lanes: guaranteed, and lent while they are idle (P6)."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.queue.shares import PEAK_DECAY_S, Slots

LANES = ("interactive", "standard", "batch")
shares_of_lanes = st.fixed_dictionaries({lane: st.sampled_from([0.0, 0.004, 0.1, 0.2, 0.3]) for lane in LANES})


def test_a_lane_alone_gets_all_but_the_reserves() -> None:
    """Of an idle lane's share three quarters are lent; at least one slot is kept of a share of one."""
    slots = Slots(100, {"interactive": 0.2, "standard": 0.3, "batch": 0.1})
    assert slots.room("batch", {}, 0.0) == 100 - 5 - 8
    assert Slots(10, {"interactive": 0.1, "standard": 0.04}).room("batch", {}, 0.0) == 9
    assert Slots(100, {}).room("interactive", {}, 0.0) == 100


def test_a_reserve_grows_with_what_a_lane_runs_and_is_forgotten() -> None:
    """Twice the recent peak is kept, up to the share; a minute or two of quiet later a quarter again."""
    slots = Slots(100, {"interactive": 0.4})
    slots.saw({"interactive": 12}, 0.0)
    assert slots.reserve("interactive", 1.0) == 24
    slots.saw({"interactive": 30}, 1.0)
    assert slots.reserve("interactive", 1.0) == 40
    assert 20 < slots.reserve("interactive", 1.0 + PEAK_DECAY_S) < 24
    assert slots.reserve("interactive", 1.0 + 4 * PEAK_DECAY_S) == 10
    assert slots.room("batch", {}, 1.0 + 4 * PEAK_DECAY_S) == 90


def test_what_was_lent_comes_back_to_its_lane_first() -> None:
    """While a lane that woke is short of its reserve, freed slots are kept for it."""
    slots, running = Slots(100, {"interactive": 0.4}), {"batch": 90, "interactive": 0}
    running["interactive"] += slots.room("interactive", running, 0.0)
    assert running["interactive"] == 10
    assert slots.room("batch", running, 0.0) == 0
    running["batch"] -= 8
    assert slots.room("batch", running, 0.1) == 0
    assert slots.room("interactive", running, 0.1) == 8


@given(
    st.lists(st.tuples(st.sampled_from(LANES), st.integers(1, 60), st.booleans(), st.floats(0, 100)), max_size=60),
    shares_of_lanes,
    st.integers(1, 200),
)
def test_slots_are_never_oversold_and_reserves_never_lent(
    moves: list[tuple[str, int, bool, float]], shares: dict[str, float], slots: int
) -> None:
    """However runs come and go, running ≤ slots, and who takes slots leaves every other lane its reserve."""
    running, now, sharing = dict.fromkeys(LANES, 0), 0.0, Slots(slots, shares)
    for lane, count, ends, passed_s in moves:
        now += passed_s
        if ends:
            running[lane] = max(0, running[lane] - count)
            continue
        took = min(count, sharing.room(lane, running, now))
        running[lane] += took
        assert sum(running.values()) <= slots
        for other in LANES if took else ():
            if other != lane:
                kept = max(0, sharing.reserve(other, now) - running[other])
                assert slots - sum(running.values()) >= kept


@given(
    shares_of_lanes,
    st.integers(1, 300),
    st.floats(0, 1000),
    st.dictionaries(st.sampled_from(LANES), st.integers(0, 300)),
)
def test_a_reserve_lies_between_a_quarter_and_the_share(
    shares: dict[str, float], slots: int, now: float, ran: dict[str, int]
) -> None:
    """A lane keeps at least a quarter of its share, rounded up, and never more than its share."""
    sharing = Slots(slots, shares)
    sharing.saw(ran, 0.0)
    for lane in LANES:
        share = sharing.share(lane)
        assert -(-share // 4) <= sharing.reserve(lane, now) <= share
        assert sharing.reserve(lane, now) >= min(share, 1)
