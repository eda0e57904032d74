"""Doors before the claim: shut, on trial, easing, open."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tollway.queue.doors import EASE_FIRST, EASE_S, TRIALS, Door, DoorState, Habits, tier_state

STATES: list[DoorState] = ["open", "shut", "trial", "easing"]


def taken_by(door: Door, since: float, seconds: float) -> int:
    """How many runs get through in this time, if there are always more, looked at a hundred times a second."""
    taken = 0
    for step in range(int(seconds * 100) + 1):
        room = door.room(since + step / 100)
        if room is None:
            return -1
        door.took(room)
        taken += room
    return taken


def test_an_open_door_bounds_nothing_and_a_shut_one_lets_nobody_through() -> None:
    """P8: a shut class has no room at all; an open one has no bound."""
    door = Door()
    assert door.room(1.0) is None
    door.see("shut", 1.0)
    assert taken_by(door, 1.0, 60.0) == 0
    door.see("open", 61.0)
    assert door.room(61.0) is None


def test_on_trial_two_go_and_one_more_a_second() -> None:
    """What is only being tried gets a probe or two of a process, and then a trickle."""
    door = Door()
    door.see("shut", 0.0)
    door.see("trial", 10.0)
    assert door.room(10.0) == TRIALS
    assert taken_by(door, 10.0, 5.0) == TRIALS + 5


def test_what_serves_again_fills_slowly_and_then_without_bound() -> None:
    """Four at once, more each moment, all after a few seconds: no herd, and no standstill."""
    door = Door()
    door.see("shut", 0.0)
    door.see("easing", 10.0)
    assert door.room(10.0) == EASE_FIRST
    assert 8 * EASE_FIRST <= taken_by(door, 10.0, 2.0) <= 32 * EASE_FIRST
    assert door.room(10.0 + EASE_S) is None
    door.see("easing", 20.0)
    assert door.room(20.0) is None, "an open door does not narrow because something closes its ramp"


@given(st.lists(st.tuples(st.sampled_from(STATES), st.floats(0, 3), st.integers(0, 5)), max_size=80))
def test_room_is_never_negative_and_only_grows_with_time(steps: list[tuple[DoorState, float, int]]) -> None:
    """Whatever happens, room is None or a number of runs, nil while shut, and nobody going lets it shrink."""
    door, now = Door(), 0.0
    for state, pause_s, took in steps:
        door.see(state, now)
        before = door.room(now)
        now += pause_s
        after = door.room(now)
        assert after is None or after >= 0
        if door.state == "shut":
            assert after == 0
        elif after is not None:
            assert before is not None
            assert after >= before
        door.took(took)


@given(
    before=st.sampled_from(STATES),
    wait_s=st.floats(0, 100) | st.just(math.inf),
    sound=st.booleans(),
    waited_for=st.booleans(),
)
def test_a_tiers_door_goes_by_the_wait(before: DoorState, wait_s: float, sound: bool, waited_for: bool) -> None:
    """Beyond the bound nobody more comes, unless the forecast is an old one; within it a shut door eases open."""
    door = Door()
    door.state = before
    state = tier_state(door, wait_s, 15.0, sound=sound, waited_for=waited_for)
    if wait_s == math.inf:
        assert state == "shut"
    elif wait_s > 15.0:
        assert state == ("shut" if waited_for else "trial")
    elif wait_s <= 12.0:
        assert state == ("trial" if not sound else "open" if before == "open" else "easing")


def test_an_agents_first_tier_is_learned_and_forgotten() -> None:
    """One run is enough to begin with; an agent that stops asking is held no more after a dozen runs."""
    habits = Habits()
    assert habits.tier("triage") is None
    habits.ended("triage", "fast")
    assert habits.tier("triage") == "fast"
    for _ in range(12):
        habits.ended("triage", None)
    assert habits.tier("triage") is None
    for _ in range(12):
        habits.ended("triage", "capable")
    assert habits.tier("triage") == "capable"


@given(st.lists(st.sampled_from([None, "fast", "capable"]), max_size=200))
def test_who_makes_no_call_is_never_held(history: list[str | None]) -> None:
    """At most one tier is the first of most runs, and it is one that was asked."""
    habits = Habits()
    for tier in history:
        habits.ended("triage", tier)
    found = habits.tier("triage")
    assert found is None or found in history
    habits.ended("plain", None)
    assert habits.tier("plain") is None
