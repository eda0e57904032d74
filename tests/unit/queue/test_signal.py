"""The scaling signal: what a lane wants, whatever it is told."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.queue.scaling import Crew, LaneAim, Load, Scaling, slots_needed, usable_slots, workers_wanted

AIMS = {"interactive": LaneAim(0.3, 1), "standard": LaneAim(0.2, 10), "batch": LaneAim(0.1, 120)}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
FACTS = st.dictionaries(
    st.sampled_from(["claiming", "slots", "agents", "lanes", "doors", "served", "lag_s", "cpu"]), ANYTHING
)
AMOUNT = st.integers(0, 10**7)
LOADS = st.lists(
    st.builds(Load, AMOUNT, AMOUNT, st.floats(0, 1e5), st.none() | st.floats(0, 1e6)), min_size=1, max_size=5
)
CREWS = st.builds(Crew, st.integers(0, 1000), st.floats(0, 1e5), st.none() | st.floats(1e-6, 1e5))


@dataclass
class Runs:
    """Live runs of a class."""

    runnable: int = 0
    running: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def facts(**given: Any) -> dict[str, Any]:
    """What a claiming worker of ten slots tells."""
    return {"claiming": True, "slots": 10, "agents": ["triage"], "lanes": list(AIMS), **given}


def served(count: int, seconds: float, lane: str = "standard") -> dict[str, Any]:
    """Counts of a worker that has served so many runs of so many seconds."""
    return {lane: {"triage": [count, count, count * seconds, 0, 0.0]}}


@given(LOADS, st.integers(0, 10**6), st.floats(0.1, 1e4), CREWS)
def test_more_backlog_never_wants_fewer_workers(loads: list[Load], more: int, wait_s: float, crew: Crew) -> None:
    """The signal is monotone in the backlog, finite and not negative, whatever the rates and times."""
    first = loads[0]
    grown = [Load(first.runnable + more, first.running, first.claims_per_s, first.seconds), *loads[1:]]
    before, after = workers_wanted(loads, wait_s, crew), workers_wanted(grown, wait_s, crew)
    assert 0 <= before <= after
    assert math.isfinite(after)


@given(LOADS, st.floats(0.1, 1e4), st.floats(1.0, 10), CREWS)
def test_more_patience_never_wants_more_workers(loads: list[Load], wait_s: float, more: float, crew: Crew) -> None:
    """A longer target wait wants as many workers or fewer, never more."""
    assert workers_wanted(loads, wait_s * more, crew) <= workers_wanted(loads, wait_s, crew) * (1 + 1e-9)


def test_slots_are_wanted_for_what_runs_what_comes_and_what_waits() -> None:
    """Running runs and those that keep coming need their slots; a waiting one needs a slot, or its share of one."""
    assert slots_needed([Load(0, 7)], 10) == 7
    assert slots_needed([Load(0, 7, 5.0, 2.0)], 10) == 10
    assert slots_needed([Load(100, 0, 0.0, 1.0)], 10) == 10
    assert slots_needed([Load(100, 0, 0.0, 60.0)], 10) == 100
    assert slots_needed([Load(100, 0)], 10) == 10  # of what is not known a second is thought
    assert slots_needed([], 10) == 0


def test_a_worker_out_of_cpu_is_measured_by_what_it_serves() -> None:
    """When slots are not the bound, the workers' measured rate is."""
    loads = [Load(1000, 10, 50.0, 0.01)]
    assert workers_wanted(loads, 10, Crew(1, 1000)) < 1
    assert workers_wanted(loads, 10, Crew(1, 1000, 50.0)) == 3


@given(st.floats(1, 1e5), st.dictionaries(st.sampled_from(list(AIMS)), st.floats(0, 1e5)))
def test_a_lane_has_its_share_at_least(slots: float, running: dict[str, float]) -> None:
    """Whatever runs in the other lanes, a lane's own share is its own, and all is never more than there is."""
    for lane, aim in AIMS.items():
        found = usable_slots(lane, AIMS, slots, running)
        assert max(1.0, aim.share * slots) <= found <= slots
    assert usable_slots("standard", AIMS, 100, {}) == pytest.approx(90)
    assert usable_slots("standard", AIMS, 100, {"interactive": 30, "batch": 30}) == pytest.approx(60)


def test_nothing_wants_nobody() -> None:
    """Without work no worker is wanted; what is blocked is told, and wants nobody."""
    scaling = Scaling(AIMS, 10)
    assert scaling.signal({}).wanted_workers == 0
    signal = scaling.signal({("standard", "triage"): Runs(0, 0, {"time": 500, "shut": 3})})
    assert (signal.wanted_workers, signal.lanes["standard"].wanted_workers) == (0, 0)
    assert signal.lanes["standard"].blocked == 503
    assert signal.lanes["standard"].reasons == {"time": 500, "shut": 3}
    assert signal.lanes["batch"].blocked == 0


def test_one_run_wants_one_worker() -> None:
    """However little the work, it wants a worker; a lane that nobody configured is left out."""
    signal = Scaling(AIMS, 1000).signal({("batch", "triage"): Runs(1), ("gone", "triage"): Runs(9)})
    assert [lane.wanted_workers for lane in signal.lanes.values()] == [0, 0, 1]
    assert signal.wanted_workers == 1


def test_documents_want_slots_for_their_backlog() -> None:
    """400 runs of 3 s on workers of 10 slots want slots enough to begin within the lane's target."""
    scaling = Scaling(AIMS, 10)
    scaling.hear(0, {1: facts(served=served(0, 3.0))})
    scaling.hear(3, {1: facts(served=served(10, 3.0))})
    signal = scaling.signal({("standard", "triage"): Runs(390, 10)})
    assert signal.workers == 1
    assert signal.wanted_workers == math.ceil((10 + 390 * 0.3) / 9)


def test_lanes_together_want_the_slots_of_all() -> None:
    """The whole wants at least what its hungriest lane does, and room for what all of them run."""
    scaling = Scaling(AIMS, 10)
    scaling.hear(0, {1: facts()})
    signal = scaling.signal({(lane, "triage"): Runs(0, 6) for lane in AIMS})
    assert signal.wanted_workers == 2
    assert all(lane.wanted_workers <= 2 for lane in signal.lanes.values())


def test_a_class_behind_a_closed_door_is_blocked() -> None:
    """Runs whose door is closed in every worker that serves them count as blocked, for the reason told."""
    scaling, counts = Scaling(AIMS, 10), {("standard", "triage"): Runs(50, 2)}
    closed = {"doors": {"triage": ["dependency", "crm", 0]}}
    scaling.hear(0, {1: facts(**closed), 2: facts(**closed), 3: facts(agents=["other"])})
    signal = scaling.signal(counts)
    assert signal.lanes["standard"].reasons == {"dependency": 50}
    assert (signal.lanes["standard"].runnable, signal.wanted_workers) == (0, 1)
    scaling.hear(1, {1: facts(**closed), 2: facts()})
    assert scaling.signal(counts).lanes["standard"].runnable == 50


def test_workers_out_of_cpu_are_told_by_lag_or_use() -> None:
    """Only when all of them are late or use their core does the measured rate bound what they are taken to serve."""
    counts = {("standard", "triage"): Runs(2000, 5)}
    wanted = {}
    for name, first, second in (("idle", {}, {}), ("one", {"lag_s": 1.0}, {}), ("all", {"lag_s": 1.0}, {"cpu": 0.97})):
        scaling = Scaling(AIMS, 1000)
        for at in (0, 3, 6):
            work = {"slots": 1000, "served": served(100 * at, 0.001)}
            scaling.hear(at, {1: facts(**work, **first), 2: facts(**work, **second)})
        wanted[name] = scaling.signal(counts).wanted_workers
    assert wanted == {"idle": 1, "one": 1, "all": 4}


def test_workers_of_some_lanes_serve_no_others() -> None:
    """A lane counts the workers that serve it; dedicated ones keep no share for lanes they do not serve."""
    scaling = Scaling(AIMS, 10)
    scaling.hear(0, {1: facts(lanes=["interactive"]), 2: facts(lanes=["standard", "batch"]), 3: facts(claiming=False)})
    signal = scaling.signal({("interactive", "triage"): Runs(0, 10)})
    assert [lane.workers for lane in signal.lanes.values()] == [1, 1, 1]
    assert signal.workers == 2
    assert signal.lanes["interactive"].wanted_workers == 1


def test_a_tenants_own_signal_knows_nothing_of_others() -> None:
    """What one tenant is told follows from its own runs, not from how many others are served."""
    scaling = Scaling(AIMS, 10)
    scaling.hear(0, {1: facts(served=served(0, 1.0))})
    scaling.hear(3, {1: facts(served=served(300, 1.0))})
    counts = {("standard", "triage"): Runs(0, 1)}
    assert scaling.signal(counts).wanted_workers > 1
    assert scaling.signal(counts, own=True).wanted_workers == 1


@given(st.lists(st.dictionaries(st.integers(1, 3), FACTS), max_size=5), AMOUNT, AMOUNT)
def test_whatever_workers_tell_the_signal_is_whole(
    heard: list[dict[int, dict[str, Any]]], runnable: int, running: int
) -> None:
    """No worker of an unknown version breaks the signal: whole numbers, none negative."""
    scaling = Scaling(AIMS, 10)
    for at, told in enumerate(heard):
        scaling.hear(float(at), {number: {**one, "claiming": True} for number, one in told.items()})
    signal = scaling.signal({("standard", "triage"): Runs(runnable, running)})
    assert signal.wanted_workers >= 0
    assert signal.lanes["standard"].runnable + signal.lanes["standard"].blocked == runnable
