"""How the benchmark's figures come of what was seen: latencies over time, use of limits, streams of messages, plots."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from tollway.simulator.bench.flood import project, provider
from tollway.simulator.bench.plot import Line, Mark, svg
from tollway.simulator.bench.project import Project, RouteSetup
from tollway.simulator.bench.scenarios.repeats import stream
from tollway.simulator.bench.timeline import back_after_s, usual_p99_s
from tollway.simulator.bench.utilisation import Limit, course_of, use_of
from tollway.simulator.bench.utilisation import back_after_s as share_back_after_s
from tollway.simulator.load import RunSeen

RATE = 100


def runs(until_s: float, slow: tuple[float, float] = (0, 0), took_s: float = 0.06) -> list[RunSeen]:
    """A run each hundredth of a second; those created within `slow` take half a second more."""
    made = []
    for number in range(int(until_s * RATE)):
        created_s = number / RATE
        late_s = 0.5 if slow[0] <= created_s < slow[1] else 0.0
        made.append(RunSeen(created_s, created_s + took_s + late_s, 1))
    return made


def test_the_usual_p99_is_that_of_the_worst_window() -> None:
    """The highest p99 of any window within the bounds, and of those alone."""
    assert usual_p99_s(runs(10), 0, 10) == pytest.approx(0.06)
    assert usual_p99_s(runs(10, slow=(4, 5)), 0, 10) == pytest.approx(0.56)
    assert usual_p99_s(runs(10, slow=(4, 5)), 6, 10) == pytest.approx(0.06)
    assert usual_p99_s([], 0, 10) == 0


def test_back_is_when_every_later_window_is_as_usual() -> None:
    """Counted from the trouble on; a relapse counts, two slow runs of two hundred do not, never is the whole span."""
    assert back_after_s(runs(20, slow=(4, 5.2)), 4, 16, 0.06) == pytest.approx(1.25)
    assert back_after_s(runs(20), 4, 16, 0.06) == 0
    assert back_after_s(runs(20, slow=(4, 4.02)), 4, 16, 0.06) == 0
    relapsed = runs(20, slow=(4, 5)) + runs(20, slow=(9, 9.5))
    assert back_after_s(relapsed, 4, 16, 0.06) == pytest.approx(5.5)
    assert back_after_s(runs(20, slow=(4, 20)), 4, 16, 0.06) == 12


ROWS = [[second, 10, 1000, 0] for second in range(5, 30)] + [[30, 4, 400, 3]]


def test_the_use_of_a_limit_is_that_of_its_window() -> None:
    """Requests or tokens that passed over those allowed; 429s are calls, too."""
    requests, tokens = Limit("m", 600), Limit("m", 120_000, tokens=True)
    assert use_of(requests, ROWS, 10, 20).share == pytest.approx(1.0)
    assert use_of(tokens, ROWS, 10, 20).share == pytest.approx(0.5)
    found = use_of(requests, ROWS, 28, 3)
    assert (found.calls, found.refused, found.refused_max) == (27, 3, 1)
    assert found.share == pytest.approx(24 / 30)
    assert use_of(requests, [], 0, 10).share == 0


def test_the_course_of_a_limit_counts_silent_seconds() -> None:
    """A second without a row is one in which nothing passed; points are smoothed over what came before them."""
    course = course_of(Limit("m", 600), ROWS, 3, 9, 2)
    assert course == [(2.0, 0.0), (3.0, 0.5), (4.0, 1.0), (5.0, 1.0), (6.0, 1.0)]


def test_a_share_is_back_with_the_first_full_span() -> None:
    """Three quarters of the rate for three seconds, then all of it: back after three seconds; or never."""
    before = [n / 200 for n in range(2000)]
    during = [10 + n / 150 for n in range(450)]
    after = [13 + n / 200 for n in range(2000)]
    assert share_back_after_s([*before, *during, *after], 10, 200, 2, 0.97) == pytest.approx(2.8, abs=0.1)
    assert share_back_after_s([*before, *during], 10, 200, 2, 0.97) == float("inf")
    assert share_back_after_s([*before, *after], 5, 200, 2, 0.97) == 0


def test_a_stream_repeats_as_often_as_it_should() -> None:
    """Two in five messages came before; the others are new, also when there are more than texts."""
    texts = [f"text {number}" for number in range(300)]
    made = stream(texts, 1000, 0.4, seed=1)
    assert len(made) == 1000
    assert (1000 - len(set(made))) / 1000 == pytest.approx(0.4, abs=0.03)
    assert made == stream(texts, 1000, 0.4, seed=1)
    assert "text 0 (2)" in made


def test_a_plot_is_a_picture_with_all_that_was_given() -> None:
    """Well-formed, every line, name and mark in it, and nothing outside its frame."""
    lines = [Line("requests & more", [(1.0, 0.5), (2.0, 2.0)]), Line("tokens", [(1.0, 1.0), (2.0, 1.0)])]
    root = ET.fromstring(svg("Use <of> limits", lines, [Mark(1.5, "a worker is killed")]))
    space = "{http://www.w3.org/2000/svg}"
    texts = [node.text for node in root.iter(f"{space}text")]
    assert {"Use <of> limits", "requests & more", "tokens", "a worker is killed", "100 %"} <= set(texts)
    drawn = [node.attrib["points"] for node in root.iter(f"{space}polyline")]
    assert len(drawn) == 2
    places = [tuple(map(float, point.split(","))) for points in drawn for point in points.split()]
    assert all(0 <= x <= 760 and 0 <= y <= 300 for x, y in places)
    assert all(before[0] < after[0] for points in drawn for before, after in pairwise(_places(points)))


def _places(points: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, point.split(","))) for point in points.split()]


def test_a_project_names_each_provider_once() -> None:
    """Routes to two providers make two sections, and settings of the scenario go beside the benchmark's own."""
    routes = (RouteSetup("a"), RouteSetup("b", "fast", 1, {"priority": 2}), RouteSetup("c", "alone", 1))
    text = Project(routes=routes, sections={"worker": {"heartbeat_s": 0.5}}).toml(100, [1111, 2222])
    assert text.count("[providers.sim") == 2
    assert text.count("[[routes]]") == 3
    assert "heartbeat_s = 0.5" in text
    assert "slots = 100" in text
    assert text.count("[worker]") == 1


def test_the_flooded_limits_are_the_same_on_both_sides() -> None:
    """What the routes are told is what the provider's buckets hold."""
    models = provider()["models"]
    for route in project().routes:
        assert all(models[route.model][key] == value for key, value in route.keys.items())
        assert models[route.model]["bucket_s"] == 1.0
