"""Fairness by cost (P7), as properties of `pick`, `charge`, `learned` and `trued`."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.queue.fair import QUANTUM, Bounds, Line, Taken, Waiting, charge, learned, pick, trued


@st.composite
def backlogs(draw: st.DrawFn) -> list[Line]:
    """A few lines, each with a weight and runs of very different cost, all at the same virtual time."""
    lines = []
    for number in range(draw(st.integers(2, 6))):
        costs = draw(st.lists(st.integers(1, 10_000), min_size=40, max_size=60))
        runs = [Waiting(number * 1000 + at, at, cost) for at, cost in enumerate(costs)]
        lines.append(Line(f"t{number}", 0.0, draw(st.sampled_from([0.5, 1.0, 2.0, 10.0])), runs))
    return lines


def served_once(lines: list[Line], wanted: int, bounds: Bounds | None = None) -> tuple[list[Line], list[Taken]]:
    """One claim: the lines after it, and what was picked."""
    picked = pick(lines, wanted, 64, bounds)
    vtimes = charge(lines, picked)
    gone = {taken.run.id for taken in picked}
    return [
        replace(line, vtime=vtimes[line.agent, line.tenant], runs=[run for run in line.runs if run.id not in gone])
        for line in lines
    ], picked


@settings(max_examples=60, deadline=None)
@given(backlogs(), st.integers(1, 24))
def test_the_gap_between_backlogged_tenants_is_bounded(lines: list[Line], wanted: int) -> None:
    """While all have a backlog, service differs by at most 2 x quantum x the dearest run's cost / weight (P7)."""
    per_line = QUANTUM
    dearest = max(run.est_nano / line.weight for line in lines for run in line.runs)
    while all(len(line.runs) >= wanted for line in lines):
        lines, picked = served_once(lines, wanted)
        assert picked
        vtimes = [line.vtime for line in lines]
        assert max(vtimes) - min(vtimes) <= 2 * per_line * dearest * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(backlogs(), st.integers(1, 24))
def test_nothing_is_lost_or_served_twice(lines: list[Line], wanted: int) -> None:
    """Every run is picked exactly once, each claim brings what it can, and the charges add up to the costs."""
    waiting = {run.id for line in lines for run in line.runs}
    cost = {line.tenant: sum(run.est_nano for run in line.runs) / line.weight for line in lines}
    while any(line.runs for line in lines):
        before = sum(len(line.runs) for line in lines)
        lines, picked = served_once(lines, wanted)
        assert 0 < len(picked) <= min(wanted, before)
        assert {taken.run.id for taken in picked} <= waiting
        waiting -= {taken.run.id for taken in picked}
        lines = [line for line in lines if line.runs] or lines
        for line in lines:
            assert line.vtime <= cost[line.tenant] * (1 + 1e-9)
    assert not waiting


@settings(max_examples=60, deadline=None)
@given(backlogs(), st.integers(1, 24))
def test_a_line_is_served_in_order(lines: list[Line], wanted: int) -> None:
    """Within one tenant's line nothing overtakes."""
    for line in lines:
        mine = [taken.run.place for taken in pick(lines, wanted, 64) if taken.tenant == line.tenant]
        assert mine == sorted(mine) == list(range(len(mine)))


@settings(max_examples=60, deadline=None)
@given(backlogs(), st.integers(1, 24), st.integers(1, 6))
def test_a_newcomer_gets_no_credit(lines: list[Line], wanted: int, rounds: int) -> None:
    """Who enters at the floor (the least vtime seen) is from then on served within the same bound as everybody else."""
    *old, newcomer = lines
    for _ in range(rounds):
        if all(len(line.runs) > wanted for line in old):
            old, _ = served_once(old, wanted)
    floor = min(line.vtime for line in old)
    lines = [*old, replace(newcomer, vtime=floor)]
    per_line = QUANTUM
    dearest = max((run.est_nano / line.weight for line in lines for run in line.runs), default=0)
    while all(len(line.runs) >= wanted for line in lines):
        lines, _ = served_once(lines, wanted)
        got = lines[-1].vtime - floor
        least = min(line.vtime for line in lines[:-1]) - floor
        assert got <= least + 2 * per_line * dearest * (1 + 1e-9)


def test_only_the_lines_of_least_time_are_looked_at() -> None:
    """`lines_max` bounds what a claim reads, and the least served are among it."""
    lines = [Line(f"t{n}", float(n), 1.0, [Waiting(n, n, 1)]) for n in range(10)]
    assert [taken.tenant for taken in pick(lines, 100, 3)] == ["t0", "t1", "t2"]
    assert pick([], 5, 3) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 10), st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 24))
def test_many_agents_give_a_tenant_no_greater_share(agents: int, weight: float, wanted: int) -> None:
    """A tenant with many backlogged agents gets what its weight says, as one with a single agent does (P7)."""
    many = [
        Line("many", 0.0, weight, [Waiting(n * 1000 + at, at, 10) for at in range(400)], f"a{n}") for n in range(agents)
    ]
    lines = [*many, Line("one", 0.0, 1.0, [Waiting(900_000 + at, at, 10) for at in range(400)], "a0")]
    got: Counter[str] = Counter()
    while all(len(line.runs) >= wanted for line in lines):
        lines, picked = served_once(lines, wanted)
        got.update(taken.tenant for taken in picked)
    assert abs(got["many"] / weight - got["one"]) <= 2 * QUANTUM * max(1.0, agents / weight)


@settings(max_examples=60, deadline=None)
@given(
    backlogs(),
    st.integers(1, 24),
    st.dictionaries(st.sampled_from(["t0", "t1", "t2"]), st.integers(0, 6)),
    st.one_of(st.none(), st.integers(1, 10)),
    st.integers(1, 30),
)
def test_bounds_hold(lines: list[Line], wanted: int, tenants: dict[str, int], other: int | None, of_agent: int) -> None:
    """No claim brings more of an agent or a tenant than it may; who may have none is passed over."""
    bounds = Bounds({"agent": of_agent}, tenants, other)
    picked = pick(lines, wanted, 64, bounds)
    got = Counter(taken.tenant for taken in picked)
    assert len(picked) <= min(wanted, of_agent)
    for tenant, runs in got.items():
        assert runs <= tenants.get(tenant, wanted if other is None else other)
    if any(tenants.get(line.tenant, 1) > 0 for line in lines):
        assert picked


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e12), st.lists(st.integers(0, 10**12), min_size=1, max_size=60))
def test_an_average_stays_among_what_it_averages(est_nano: float, costs: list[int]) -> None:
    """What a line learns lies between what it knew and what its runs cost; without runs it learns nothing."""
    known = learned(est_nano, len(costs), sum(costs))
    seen = [sum(costs) / len(costs), *([est_nano] if est_nano else [])]
    assert min(seen) * (1 - 1e-9) <= known <= max(1.0, *seen) * (1 + 1e-9)
    assert learned(est_nano, 0, 0.0) == est_nano


def test_an_average_follows_a_change() -> None:
    """After some twenty runs of another price a line charges about the new one."""
    assert learned(0, 3, 300.0) == 100.0
    assert learned(100.0, 22, 22_000.0) == pytest.approx(1000, rel=0.1)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e9), st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), max_size=20))
def test_a_refund_is_no_credit(entered: float, charges: list[tuple[int, int]]) -> None:
    """Whatever was charged before, and is refunded now, a line stands no further back than where it entered last."""
    vtime = entered + sum(charged for charged, _ in charges)
    for charged, cost in charges:
        vtime = trued(vtime, entered, cost - charged)
        assert vtime >= entered
    assert trued(entered + 5, entered, -1e9) == entered
