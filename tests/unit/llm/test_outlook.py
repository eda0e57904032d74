"""How a tier stands: the best of its routes, asked without taking anything."""

import math
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tollway.llm.capacity.costs import Cost
from tollway.llm.outlook import Outlook, outlook, usual

NOW, EPOCH = 100.0, 1_800_000_000.0


def way(
    state: str = "closed",
    wait_s: float = 0.0,
    waiting: int = 0,
    breaker_opens: float | None = None,
    limits_open: float | None = None,
) -> Any:
    """A route that stands so."""
    breaker = SimpleNamespace(state=state, opens_at=breaker_opens, look=lambda now: None)
    limiter = SimpleNamespace(wait_s=lambda cost: wait_s, waiting=waiting, opens_at=limits_open)
    return SimpleNamespace(breaker=breaker, limiter=limiter, usual=None)


def test_the_best_sound_route_tells_the_wait() -> None:
    """A route that may be called counts before one that is only being tried again."""
    assert outlook([way(wait_s=7.0), way(wait_s=3.0, waiting=2)], NOW, EPOCH) == Outlook(3.0, waited_for=True)
    assert outlook([way("half_open"), way("ramping", 5.0)], NOW, EPOCH) == Outlook(5.0)
    assert outlook([way("half_open"), way("open", breaker_opens=110.0)], NOW, EPOCH) == Outlook(0.0, sound=False)


def test_with_all_routes_shut_it_tells_when_the_first_opens() -> None:
    """By its breaker, or by the next day's tokens; not at all where nobody can tell."""
    spent = way(wait_s=math.inf, limits_open=EPOCH + 3600)
    assert outlook([way("open", breaker_opens=130.0), spent], NOW, EPOCH) == Outlook(math.inf, 30.0, sound=False)
    assert outlook([spent], NOW, EPOCH) == Outlook(math.inf, 3600.0, sound=False)
    assert outlook([way("open")], NOW, EPOCH) == Outlook(math.inf, None, sound=False)


def test_a_tier_without_routes_has_nothing_to_wait_for() -> None:
    """What nobody serves is refused by the call itself, not held for ever."""
    assert outlook([], NOW, EPOCH) == Outlook(0.0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["closed", "open", "half_open", "ramping"]), st.floats(0, 500) | st.just(math.inf)),
        min_size=1,
        max_size=6,
    )
)
def test_one_route_that_serves_is_enough(routes: list[tuple[str, float]]) -> None:
    """The wait is finite exactly when some route is not shut, and then it is one of theirs."""
    ways = [way(state, wait_s) for state, wait_s in routes]
    waits = [wait_s for state, wait_s in routes if state != "open" and wait_s < math.inf]
    seen = outlook(ways, NOW, EPOCH)
    assert (seen.wait_s < math.inf) == bool(waits)
    assert seen.wait_s in (*waits, math.inf)


@given(st.lists(st.builds(Cost, *[st.integers(0, 100_000)] * 3), min_size=1, max_size=50))
def test_a_usual_call_lies_between_those_that_were(costs: list[Cost]) -> None:
    """The usual cost is that of the first call, moved a little by each further one."""
    found: Cost | None = None
    for cost in costs:
        found = usual(found, cost)
    assert found is not None
    for at, value in enumerate(found):
        assert min(cost[at] for cost in costs) <= value <= max(cost[at] for cost in costs)
