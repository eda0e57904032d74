"""Fairness by cost (P7), as properties of `pick` and `charge`."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.queue.fair import Line, Waiting, charge, pick


@st.composite
def backlogs(draw: st.DrawFn) -> list[Line]:
    """A few lines, each with a weight and runs of very different cost, all at the same virtual time."""
    lines = []
    for number in range(draw(st.integers(2, 6))):
        costs = draw(st.lists(st.integers(1, 10_000), min_size=40, max_size=60))
        runs = [Waiting(number * 1000 + at, at, cost) for at, cost in enumerate(costs)]
        lines.append(Line(f"t{number}", 0.0, draw(st.sampled_from([0.5, 1.0, 2.0, 10.0])), runs))
    return lines


def served_once(lines: list[Line], wanted: int) -> tuple[list[Line], list[tuple[str, Waiting]]]:
    """One claim: the lines after it, and what was picked."""
    picked = pick(lines, wanted, 64)
    vtimes = charge(lines, picked)
    gone = {run.id for _, run in picked}
    return [
        replace(line, vtime=vtimes[line.tenant], runs=[run for run in line.runs if run.id not in gone])
        for line in lines
    ], picked


@settings(max_examples=150, deadline=None)
@given(backlogs(), st.integers(1, 24))
def test_the_gap_between_backlogged_tenants_is_bounded(lines: list[Line], wanted: int) -> None:
    """While all have a backlog, weighted service differs by at most twice what a claim may give a line."""
    per_line = min(wanted, max(4, 2 * wanted // len(lines)))
    dearest = max(run.est_nano / line.weight for line in lines for run in line.runs)
    while all(len(line.runs) >= per_line for line in lines):
        lines, picked = served_once(lines, wanted)
        assert picked
        vtimes = [line.vtime for line in lines]
        assert max(vtimes) - min(vtimes) <= 2 * per_line * dearest * (1 + 1e-9)


@settings(max_examples=150, deadline=None)
@given(backlogs(), st.integers(1, 24))
def test_nothing_is_lost_or_served_twice(lines: list[Line], wanted: int) -> None:
    """Every run is picked exactly once, each claim brings what it can, and the charges add up to the costs."""
    waiting = {run.id for line in lines for run in line.runs}
    cost = {line.tenant: sum(run.est_nano for run in line.runs) / line.weight for line in lines}
    while any(line.runs for line in lines):
        before = sum(len(line.runs) for line in lines)
        lines, picked = served_once(lines, wanted)
        assert 0 < len(picked) <= min(wanted, before)
        assert {run.id for _, run in picked} <= waiting
        waiting -= {run.id for _, run in picked}
        lines = [line for line in lines if line.runs] or lines
        for line in lines:
            assert line.vtime <= cost[line.tenant] * (1 + 1e-9)
    assert not waiting


@settings(max_examples=150, deadline=None)
@given(backlogs(), st.integers(1, 24))
def test_a_line_is_served_in_order(lines: list[Line], wanted: int) -> None:
    """Within one tenant's line nothing overtakes."""
    for line in lines:
        mine = [run.place for tenant, run in pick(lines, wanted, 64) if tenant == line.tenant]
        assert mine == sorted(mine) == list(range(len(mine)))


@settings(max_examples=150, deadline=None)
@given(backlogs(), st.integers(1, 24), st.integers(1, 6))
def test_a_newcomer_gets_no_credit(lines: list[Line], wanted: int, rounds: int) -> None:
    """Who enters at the floor (the least vtime seen) is from then on served within the same bound as everybody else."""
    *old, newcomer = lines
    for _ in range(rounds):
        if all(len(line.runs) > wanted for line in old):
            old, _ = served_once(old, wanted)
    floor = min(line.vtime for line in old)
    lines = [*old, replace(newcomer, vtime=floor)]
    per_line = min(wanted, max(4, 2 * wanted // min(len(old), len(lines))))
    dearest = max((run.est_nano / line.weight for line in lines for run in line.runs), default=0)
    while all(len(line.runs) >= per_line for line in lines):
        lines, _ = served_once(lines, wanted)
        got = lines[-1].vtime - floor
        least = min(line.vtime for line in lines[:-1]) - floor
        assert got <= least + 2 * per_line * dearest * (1 + 1e-9)


def test_only_the_lines_of_least_time_are_looked_at() -> None:
    """`lines_max` bounds what a claim reads, and the least served are among it."""
    lines = [Line(f"t{n}", float(n), 1.0, [Waiting(n, n, 1)]) for n in range(10)]
    assert [tenant for tenant, _ in pick(lines, 100, 3)] == ["t0", "t1", "t2"]
    assert pick([], 5, 3) == []
