"""What speaks against a dependency, how its breaker opens and closes, and what processes tell each other of it."""

import pytest

from executor_kit import StillClock
from ingress_kit import LocalNews
from tollway.config import Breaker, Dependency
from tollway.domain.errors import Reject, Retry
from tollway.llm.breakers.shown import shown_dependencies
from tollway.runtime.dependencies import Dependencies, checked_dependency
from tollway.telemetry.metrics import Metrics


def make(clock: StillClock, news: LocalNews | None = None, **own: Dependency) -> Dependencies:
    """The dependencies of a process."""
    made = Dependencies(Breaker(), own, news or LocalNews(), clock, Metrics())
    made.board.start()
    return made


def call(dependencies: Dependencies, error: BaseException | None = None) -> bool:
    """One call; whether it was admitted."""
    passage = dependencies.enter("crm")
    if passage is None:
        return False
    passage.begins()
    if error is None:
        passage.served()
    else:
        passage.failed(error)
    return True


def calls_until_open(dependencies: Dependencies, error: BaseException, most: int = 50) -> int:
    """How many failing calls it takes."""
    for n in range(1, most + 1):
        call(dependencies, error)
        if dependencies.closed("crm") is not None:
            return n
    return 0


def test_a_dead_dependency_opens_within_a_few_calls_and_closes_by_a_probe() -> None:
    """Five refused connections are enough when nothing succeeds; after the pause one success begins the return."""
    clock = StillClock()
    one = make(clock)
    assert calls_until_open(one, ConnectionRefusedError()) == 5
    closed = one.closed("crm")
    assert closed is not None
    assert (closed.gate, closed.delay_s) == ("dependency:crm", 2.0)
    assert not call(one)
    clock.at += 3.1
    assert call(one), "a probe"
    assert one.board.of("crm").state == "ramping"
    clock.at += 10
    assert call(one)
    assert one.board.of("crm").state == "closed"


@pytest.mark.parametrize(
    ("error", "counts"),
    [(ValueError("no"), True), (TimeoutError(), True), (Retry(5.0), True), (Reject("not ours"), False)],
)
def test_what_speaks_against_a_dependency(error: BaseException, counts: bool) -> None:
    """An exception and `Retry` do; `Reject` is a verdict of the agent's and says nothing."""
    assert calls_until_open(make(StillClock()), error) == (5 if counts else 0)


@pytest.mark.parametrize(
    ("timed_out_s", "took_s", "counts"), [(None, 60.0, False), (10.0, 6.0, True), (10.0, 1.0, False)]
)
def test_a_cancel_says_nothing_but_an_attempt_that_ran_out_of_time_in_it_does(
    timed_out_s: float | None, took_s: float, counts: bool
) -> None:
    """Cut by a cancel: nothing. Cut by the attempt's time-out: a failure, if the task took most of it."""
    clock = StillClock()
    one = make(clock)
    for _ in range(5):
        passage = one.enter("crm")
        assert passage is not None
        passage.begins()
        clock.at += took_s
        passage.cut(timed_out_s)
    assert (one.closed("crm") is not None) == counts


def test_a_result_that_came_back_counts_once() -> None:
    """What happens after the function returned is not the dependency's doing."""
    one = make(StillClock())
    for _ in range(5):
        passage = one.enter("crm")
        assert passage is not None
        passage.begins()
        passage.served()
        passage.failed(TypeError("not JSON"))
        passage.cut()
    assert one.facts()["crm"]["failure_share"] == 0.0


def test_processes_open_and_return_together() -> None:
    """An opening is believed by processes that never called it, and so is the success of a probe."""
    clock, news = StillClock(), LocalNews()
    one, other = make(clock, news), make(clock, news)
    turned: list[str] = []
    other.board.on_turn = turned.append
    calls_until_open(one, ConnectionRefusedError())
    assert other.closed("crm") is not None
    clock.at += 3.1
    assert call(one)
    assert (other.board.of("crm").state, turned) == ("ramping", ["crm", "crm"])


def test_settings_of_its_own_come_before_those_of_all() -> None:
    """`[dependencies.crm]` says how many calls it takes, and what is too slow; others keep the defaults."""
    clock = StillClock()
    one = make(clock, crm=Dependency(calls_min=2, latency_p99_max_s=1.0, open_s=7.0))
    for _ in range(2):
        passage = one.enter("crm")
        assert passage is not None
        passage.begins()
        clock.at += 2.0
        passage.served()
    closed = one.closed("crm")
    assert closed is not None
    assert closed.delay_s == 7.0


def test_one_view_is_made_of_what_all_processes_tell() -> None:
    """The worst state stands, calls add up, and what has another form is left out."""
    clock = StillClock()
    well, ill = make(clock), make(clock)
    call(well)
    calls_until_open(ill, ConnectionRefusedError())
    (shown,) = shown_dependencies([well.facts(), ill.facts(), None, {"crm": 3}, {"crm": {"state": "odd"}}])
    assert (shown["name"], shown["breaker"]["state"], shown["processes"]) == ("crm", "open", 2)
    assert (shown["calls"], shown["failure_share"]) == (6, pytest.approx(5 / 6, abs=1e-3))


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "crm\n", ":", 7])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    """P11: the error says what a name is made of."""
    with pytest.raises(ValueError, match="1 to 128 letters"):
        checked_dependency(name)
