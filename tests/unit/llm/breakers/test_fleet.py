"""The figures of a failing route, over several processes that share their breakers, in virtual time."""

import json

import pytest
from fleet import TIMEOUT_S, Fleet, Trouble

BEGINS, ENDS = 70.0, 190.0
DIES = Trouble("dies", BEGINS, ENDS, latency_p99_max_s=5.0)
HANGS = Trouble("hangs", BEGINS, ENDS, latency_p99_max_s=1.0)
SLOWS = Trouble("slows", BEGINS, ENDS, latency_p99_max_s=0.25)
TROUBLES = [pytest.param(trouble, id=trouble.kind) for trouble in (DIES, HANGS, SLOWS)]


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


def opened_at(fleet: Fleet) -> float:
    """When the first of the breakers opened."""
    return min(json.loads(said)["at"] for said in fleet.news.said) - 1.7e9


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize(("processes", "rate"), [(4, 50.0), (12, 5.0), (1, 300.0)])
def test_a_troubled_route_is_left_alone(trouble: Trouble, processes: int, rate: float) -> None:
    """From the opening to the end of the trouble at most 1 % of the calls go there, probes of all processes included.

    It opens within the latency budget and a second, or 20 calls of a process where they are rarer. The p99 is the
    second route's own 5 s after the trouble began.
    """
    fleet = Fleet(trouble, processes, rate)
    fleet.run(ENDS + 1.1 * TIMEOUT_S)
    opened = opened_at(fleet)
    budget_s = 0.0 if trouble.kind == "dies" else trouble.latency_p99_max_s
    assert opened - BEGINS <= budget_s + max(1.0, 20 / rate)
    after = [tried for begun, _, tried in fleet.calls if opened + 0.05 <= begun < ENDS]
    assert sum(after) <= 0.01 * len(after)
    before = [took for begun, took, _ in fleet.calls if 5 <= begun < BEGINS]
    later = [took for begun, took, _ in fleet.calls if BEGINS + 5 <= begun < ENDS]
    assert p99(later) <= 1.25 * p99(before)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_sound_route_is_used_again(trouble: Trouble) -> None:
    """Within the longest pause and the ramp after the trouble, every breaker is closed and has all calls again."""
    fleet = Fleet(trouble)
    fleet.run(ENDS + 60)
    for board in fleet.boards:
        assert board.shown()["first"]["state"] == "closed"
        assert board.trouble_since("first") is None
    last = [tried for begun, _, tried in fleet.calls if begun > ENDS + 50]
    assert all(last)
    assert len(last) > 1_000


def test_nothing_is_said_while_nothing_changes() -> None:
    """Processes whose routes are well send no news; in trouble a handful of messages a pause."""
    quiet = Fleet(Trouble("dies", 1000, 1001, 5.0))
    quiet.run(70)
    assert quiet.news.said == []
    fleet = Fleet(DIES)
    fleet.run(ENDS)
    assert len(fleet.news.said) < 100


def test_an_opening_is_shared_with_a_process_that_made_no_call() -> None:
    """A process without calls of its own has the breaker open as soon as the news arrives, until the same moment."""
    fleet = Fleet(DIES)
    fleet.add_process(calls=False)
    fleet.run(BEGINS + 0.6)
    found = [board.shown()["first"] for board in fleet.boards]
    assert {one["state"] for one in found} == {"open"}
    ends = [one["opens_at"] for one in found]
    assert max(ends) - min(ends) < 0.3


def test_one_process_with_trouble_of_its_own_does_not_stop_the_others() -> None:
    """Where calls go well, the opening of a process that cannot reach the route is not believed."""
    fleet = Fleet(Trouble("dies", 1000, 1001, 5.0))
    fleet.run(60)
    lonely = fleet.boards[0].of("first")
    now = fleet.clocks[0].monotonic()
    while lonely.state == "closed":
        lonely.end(lonely.begin(now), now, ok=False)
    fleet.run(61)
    states = [board.shown()["first"]["state"] for board in fleet.boards]
    assert states == ["open", "closed", "closed", "closed"]


def test_news_that_make_no_sense_are_passed_over() -> None:
    """Garbage, other routes and what is over change nothing; an end far away is cut to the longest pause."""
    fleet = Fleet(Trouble("dies", 1000, 1001, 5.0), processes=2, rate=0.001)
    fleet.run(10)
    now = 1.7e9 + 10
    told = {"route": "first", "state": "open", "by": "x", "at": now, "until": now + 9, "pause_s": 9}
    for said in ("", "{}", "[1]", json.dumps({**told, "route": "other"}), json.dumps({**told, "until": now - 5})):
        fleet.news.publish("breaker", said)
        fleet.run(fleet.time.now + 0.1)
        assert {board.of("first").state for board in fleet.boards} == {"closed"}
    fleet.news.publish("breaker", json.dumps({**told, "at": now + 2, "until": now + 9e9, "pause_s": 9e9}))
    fleet.run(fleet.time.now + 0.1)
    for board, clock in zip(fleet.boards, fleet.clocks, strict=True):
        breaker = board.of("first")
        assert breaker.state == "open"
        assert breaker.opens_at is not None
        assert breaker.opens_at <= clock.monotonic() + 30
        assert breaker.pause_s == 30
    for board in fleet.boards:
        board.stop()
        board.stop()
