"""What a route did in the last minute, and how processes' views of it are joined."""

from typing import Any

import msgspec
import pytest

from governor_kit import SetBreaker, SetLimiter, guards, route
from tollway.domain.clock import AnchoredClock
from tollway.llm.board import RouteBoard, shown_routes, tier_shares
from tollway.llm.fallbacks import CALLS_MIN, LASTING_S, QUIET_S, FallbackWatch, LivingOn, longest_fallbacks
from tollway.llm.meter import RouteMeter, joined_facts


def test_a_minute_is_remembered_and_no_more() -> None:
    """Calls count for a minute after they came back, then are gone."""
    meter = RouteMeter()
    for second in range(120):
        meter.begin()
        meter.done(float(second), 0.05, 10, 2, fallback=False)
    facts = meter.facts(119.9)
    assert (facts["calls"], facts["input_tokens"], facts["output_tokens"]) == (60, 600, 120)
    assert meter.facts(300.0) == {}


def test_views_of_processes_are_joined() -> None:
    """Sums are summed and percentiles taken over the calls of all, at most a quarter too high."""
    slow, fast = RouteMeter(), RouteMeter()
    for _ in range(98):
        fast.begin()
        fast.done(1.0, 0.05, 1, 1, fallback=False)
    for _ in range(2):
        slow.begin()
        slow.done(1.0, 8.0, 1, 1, fallback=True)
    slow.begin()
    slow.failed(1.0, throttled=True)
    slow.begin()
    joined = joined_facts([fast.facts(2.0), slow.facts(2.0)])
    assert (joined["calls"], joined["throttled"], joined["failed"], joined["fallbacks"]) == (101, 1, 0, 2)
    assert joined["in_flight"] == 1
    assert joined["latency"]["p50_s"] == pytest.approx(0.05, rel=0.26)
    assert joined["latency"]["p99_s"] == pytest.approx(8.0, rel=0.26)


def test_every_route_is_shown() -> None:
    """Routes at rest are shown with zeroes; the worst state of a breaker in any process is the route's."""
    breaker = SetBreaker(shut=True)
    board = RouteBoard(guards({"a": SetLimiter(free=False)}, {"a": breaker}), AnchoredClock())
    board.meter("a").begin()
    shown = shown_routes([route("a", rpm=600), route("b")], [board.facts(), {}])
    first, second = shown
    assert (first["limits"], first["waiting"], first["in_flight"]) == ({"rpm": 600}, 1, 1)
    assert (first["breaker"]["state"], first["leased"]) == ("open", {"requests": 30.0})
    assert (second["used"]["requests"], second["breaker"]["state"], second["processes"]) == (0, "closed", 0)


@pytest.mark.parametrize(
    "told",
    [
        None,
        ["a"],
        "a",
        {"a": None},
        {"a": 7},
        {"a": {"calls": None}},
        {"a": {"calls": "many"}},
        {"a": {"latencies": [1, 2]}},
        {"a": {"latencies": [[1, 2, 3]]}},
        {"a": {"limiter": {"leased": {"requests": "30"}}}},
        {"a": {"limiter": {"waiting": None}}},
        {"a": {"breaker": {"since": 1.0}}},
        {"a": {"breaker": {"state": "ajar"}}},
        {"a": {"breaker": None, "limiter": None, "novel": [1]}},
    ],
)
def test_what_another_version_tells_breaks_nothing(told: Any) -> None:
    """Facts in another form than ours are left out; those of the other processes are shown all the same."""
    ours = {"a": {"calls": 3, "in_flight": 1, "latencies": [[4, 3]]}}
    (shown,) = shown_routes([route("a")], [told, ours])
    assert (shown["used"]["requests"], shown["in_flight"], shown["breaker"]) == (3, 1, {"state": "closed"})


def test_lasting_fallback_is_an_alert_once() -> None:
    """A tier that lives on another route for a minute is told once, and its end ends the episode."""
    watch = FallbackWatch()
    told = [watch.fell_back("fast", LASTING_S * step / CALLS_MIN) for step in range(3 * CALLS_MIN)]
    assert told.count(True) == 1
    assert told.index(True) >= CALLS_MIN - 1
    assert watch.served("fast")
    assert watch.since("fast") is None
    assert not watch.served("fast")
    assert not watch.fell_back("fast", 1000.0)
    assert not watch.served("fast")


def test_lasting_fallback_is_told_while_there_are_calls() -> None:
    """An episode that became an alert is told with its length and calls, until it is over or nothing calls any more."""
    watch = FallbackWatch()
    for step in range(CALLS_MIN):
        assert watch.lasting(float(step)) == {}
        watch.fell_back("fast", float(step) * LASTING_S / (CALLS_MIN - 1))
    assert watch.lasting(LASTING_S + 5) == {"fast": (LASTING_S + 5, CALLS_MIN)}
    assert watch.lasting(LASTING_S + QUIET_S) == {}
    watch.fell_back("fast", 2 * LASTING_S + QUIET_S)
    assert watch.lasting(2 * LASTING_S + QUIET_S) == {"fast": (2 * LASTING_S + QUIET_S, CALLS_MIN + 1)}
    watch.served("fast")
    assert watch.lasting(2 * LASTING_S + QUIET_S) == {}


class SetClock:
    """A clock that stands where it is set."""

    at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def test_a_process_tells_of_its_lasting_fallbacks() -> None:
    """What rides on the beat says which route serves in whose stead, why, and for how long; at rest it is nothing."""
    clock = SetClock()
    board = RouteBoard(guards({}, {}), clock)
    board.served("fast", None, "main")
    for _ in range(CALLS_MIN):
        clock.at += 10
        assert len(board.fallback_facts()) <= 1
        board.served("fast", ("main", "breaker_open"), "spare")
    told = msgspec.json.decode(msgspec.json.encode(board.fallback_facts()))["fallbacks"]
    assert longest_fallbacks([told]) == {"fast": LivingOn(190.0, CALLS_MIN, "spare", "main", "breaker_open")}
    board.served("fast", None, "main")
    assert board.fallback_facts() == {}


def test_the_longest_fallback_of_all_processes_counts() -> None:
    """Of what processes tell of a tier the longest is taken; what has another form than ours is left out."""
    told = [
        {"fast": {"for_s": 70, "route": "spare"}, "capable": {"for_s": 400, "novel": 1}},
        {"fast": {"for_s": 90.5, "calls": 3}, "powerful": {"calls": 1}, "odd": None},
        {"fast": ["nonsense"]},
    ]
    longest = longest_fallbacks(told)
    assert longest == {"fast": LivingOn(90.5, 3), "capable": LivingOn(400.0)}


def test_the_share_of_calls_by_tier() -> None:
    """Calls of all routes of a tier count together; without calls every share is nothing."""
    routes = [route("a"), route("b"), route("c", tier="capable")]
    at_rest = tier_shares(shown_routes(routes, []))
    assert at_rest == [{"tier": "fast", "requests": 0, "share": 0.0}, {"tier": "capable", "requests": 0, "share": 0.0}]
    told = [{"a": {"calls": 1}, "b": {"calls": 2}}, {"c": {"calls": 1}}]
    assert [one["share"] for one in tier_shares(shown_routes(routes, told))] == [0.75, 0.25]
