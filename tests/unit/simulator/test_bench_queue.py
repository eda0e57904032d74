"""How the figures about the queue come of what was seen: shares, gaps, forecasts, costs over time, goodput, courses."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.record.sizes import TableSize
from tollway.simulator.bench.dividing import forecast_errors, jain, median, normalised, service_gap
from tollway.simulator.bench.machine import Machine
from tollway.simulator.bench.plot import Line, Mark, svg
from tollway.simulator.bench.queue_costs import Held, Point, Window, held_ratio, normal_after_s, usual_us
from tollway.simulator.bench.scenarios.backlog import Found, Scale, report
from tollway.simulator.bench.scenarios.documents import Course
from tollway.simulator.bench.scenarios.fairness import runs_per_s, tenants_of
from tollway.simulator.bench.stock import RunLine
from tollway.simulator.bench.throughput import normal_after_s as waits_normal_after_s
from tollway.simulator.bench.throughput import rate_course, wait_course
from tollway.simulator.load import Latency, RunSeen

INFINITE = float("inf")
MACHINE = Machine(
    calibration_ms=10.0, fdatasync=Latency(), filesystem="ext4", cpus=2, cpu="x", python="3.11", kernel="6"
)
HELD = Held(per_s=1000, before_s=20, held_s=100, after_s=40, step_s=10)


def course(before: float, held: float, after: float, late: float) -> list[Point]:
    """A point each ten seconds: what a claim costs before, during, just after and well after a snapshot."""
    return [
        *(Point(at, before) for at in (10, 20)),
        *(Point(at, held) for at in range(30, 121, 10)),
        *(Point(at, after) for at in (130, 140)),
        *(Point(at, late) for at in (150, 160)),
    ]


def test_shares_are_held_against_weights() -> None:
    """1.0 is what the weight entitles to; a tenant that got nothing has 0."""
    assert normalised({"a": 10, "b": 20}, {"a": 1, "b": 2}) == {"a": 1.0, "b": 1.0}
    assert normalised({"a": 30}, {"a": 1, "b": 2}) == {"a": 3.0, "b": 0.0}


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=50))
def test_jains_index_lies_between_one_and_a_share_of_one(values: list[int]) -> None:
    """1 when all are equal, 1/n when one has it all, and never beyond."""
    assert 1 / len(values) - 1e-9 <= jain(values) <= 1 + 1e-9
    assert jain([values[0]] * len(values)) == pytest.approx(1)
    assert jain([1.0] + [0.0] * (len(values) - 1)) == pytest.approx(1 / len(values))


def test_the_service_gap_is_the_widest_ever() -> None:
    """Seen at every second, over weight, from the beginning on: catching up later does not undo it."""
    served = [("a", 0.2, 8.0), ("a", 0.7, 8.0), ("b", 1.5, 8.0), ("b", 2.5, 8.0), ("c", 9.0, 99.0)]
    assert service_gap(served, {"a": 2.0, "b": 1.0, "c": 1.0}, 0, 5) == 16
    assert service_gap(served[:4], {"a": 2.0, "b": 2.0}, 0, 5) == 8
    assert service_gap([], {"a": 1.0}, 0, 5) == 0


def line(predicted_s: float | None, started_s: float | None) -> RunLine:
    """A run created at 100 s."""
    return RunLine("a", "succeeded", 1, 100.0, predicted_s, started_s, None)


def test_a_forecast_is_judged_by_the_wait() -> None:
    """Its error is a share of the wait; runs that hardly waited, or never began, tell nothing."""
    runs = [line(104.0, 105.0), line(106.0, 104.0), line(100.0, 100.5), line(None, 105.0), line(101.0, None)]
    assert forecast_errors(runs) == [0.2, 0.5]
    assert median([]) == INFINITE


def test_a_held_snapshot_is_judged_by_its_end() -> None:
    """The last tenth of it against the time before; back when no later point is dearer by a quarter."""
    assert usual_us(course(50, 80, 90, 50), HELD) == 50
    assert held_ratio(course(50, 80, 90, 50), HELD) == 1.6
    assert normal_after_s(course(50, 80, 90, 50), HELD) == 20
    assert normal_after_s(course(50, 80, 50, 50), HELD) == 0
    assert normal_after_s(course(50, 80, 90, 90), HELD) == INFINITE


def test_the_backlog_report_holds_costs_to_their_bounds() -> None:
    """Medians of windows against one another, sizes against the first; what grew too much is missed."""
    cheap, dear = Window(100, 50.0, 50.0, 9.0), Window(100, 80.0, 60.0, 9.0)
    sizes = [TableSize("flow", 1 << 20, 1 << 20), TableSize("flow_floor", 8192, 0), TableSize("queue", 1 << 20, 0)]
    grown = [TableSize("flow", 1 << 22, 0), TableSize("flow_floor", 32768, 0), TableSize("queue", 1 << 22, 0)]
    found = Found(sizes, grown, [cheap] * 3, [dear, cheap, dear], [dear] * 3, course(50, 80, 50, 50))
    told = report(found, Scale(held=HELD), MACHINE)
    figures = {figure.name: figure for figure in told.figures}
    assert figures["  against the small queue"].value == 1.4
    assert figures["  against without them"].value == 0
    assert [figure.name for figure in told.missed] == ["  against the small queue", "  against after 10,000"]
    assert told.missed[1].value == 4  # flow has doubled, which it may; a table of a few pages is not judged


def test_rates_are_of_whole_spans() -> None:
    """A span in which nothing ended is a point, too; half a span is none."""
    assert rate_course([0.5, 1.0, 1.5, 4.5, 9.9], 0, 9, 2) == [(2, 1.5), (4, 0), (6, 0.5), (8, 0)]


def test_waits_are_medians_by_creation() -> None:
    """What runs took beyond their work, by when they were created; back to normal is for good."""
    runs = [RunSeen(at, at + 0.5 + wait, 1) for at, wait in ((0, 0), (1, 3), (1.5, 5), (5, 0.2))]
    waits = wait_course(runs, 0.5, 0, 6, 2)
    assert waits == [(2, 3.0), (6, pytest.approx(0.2))]
    assert waits_normal_after_s([(2, 0.1), (4, 3), (6, 2), (8, 0.1)], 4, 0.5) == 2
    assert waits_normal_after_s([(2, 0.1), (4, 3), (6, 2)], 3, 0.5) == INFINITE
    assert waits_normal_after_s([(2, 0.1)], 4, 0.5) == 0


def test_workers_have_shrunk_when_one_is_left_for_good() -> None:
    """Counted from the end of the last run; with more than one at the end, never."""
    grown = [(0.0, 1.0), (5.0, 4.0), (30.0, 2.0), (40.0, 1.0)]
    assert Course(grown, done_s=20.0).shrunk_after_s() == 10
    assert Course(grown[:3], done_s=20.0).shrunk_after_s() == INFINITE
    assert (Course(grown).most, Course(grown).last) == (4, 1)
    assert Course().shrunk_after_s() == INFINITE


@pytest.mark.parametrize("count", [2, 10, 50])
def test_backlogs_follow_weight_and_size(count: int) -> None:
    """Runs a second times tokens is money: each tenant's expected part of it is that of its weight."""
    tenants = tenants_of(count)
    rates = runs_per_s(tenants)
    money = {tenant.name: rates[tenant.name] * tenant.mean_tokens for tenant in tenants}
    weights = {tenant.name: tenant.weight for tenant in tenants}
    assert list(normalised(money, weights).values()) == pytest.approx([1.0] * count)
    assert len({tenant.weight for tenant in tenants}) > 1
    assert all(body["agent"] in tenants[-1].agents for body in tenants[-1].bodies(9, "x"))


def test_a_plot_of_great_shares_has_few_lines_and_shows_spans() -> None:
    """The grid widens with the axis, and what lasted is a span within the frame."""
    root = ET.fromstring(svg("t", [Line("a", [(1, 0.5), (100, 9)])], [Mark(20, "held", 60), Mark(80, "over")], 10))
    space = "{http://www.w3.org/2000/svg}"
    texts = [node.text or "" for node in root.iter(f"{space}text")]
    assert {"held", "over", "0 %", "1000 %"} <= set(texts)
    assert sum(text.endswith(" %") for text in texts) <= 9
    spans = [node for node in root.iter(f"{space}rect") if node.get("fill") == "#fee2e2"]
    assert [float(node.get("x", "0")) + float(node.get("width", "0")) <= 760 for node in spans] == [True]
