"""Which routes serve what is asked for, and in which order."""

from collections import Counter
from random import Random
from typing import Any, NamedTuple

from tollway.config import Route, Tier
from tollway.llm.tiers import Tiers, in_order


class Way(NamedTuple):
    """A route and nothing else."""

    route: Route


def way(name: str, **more: Any) -> Way:
    return Way(Route(**{"name": name, "tier": "fast", "provider": "p", "model": "m", **more}))


def names(tiers: Tiers[Way], asked: str) -> list[list[str]]:
    return [[one.route.name for one in group.routes] for group in tiers.groups(asked)]


def test_priority_then_provisioned_then_on_demand() -> None:
    """A lower priority number is asked first, and of one priority bought capacity before what is paid by use."""
    tiers = Tiers(
        [way("late", priority=2), way("spot"), way("bought", capacity="provisioned"), way("spot-2")],
    )
    assert names(tiers, "fast") == [["bought"], ["spot", "spot-2"], ["late"]]
    assert [group.spills for group in tiers.groups("fast")] == [True, False, False]
    assert tiers.groups("none") == ()


def test_a_tiers_fallbacks_come_after_its_own_routes() -> None:
    """A tier that names others is served by them last, in the order it names them."""
    routes = [way("a"), way("b", tier="capable", priority=2), way("c", tier="powerful")]
    tiers = Tiers(routes, {"fast": Tier(fallback=("powerful", "capable"))})
    assert names(tiers, "fast") == [["a"], ["c"], ["b"]]
    assert names(tiers, "capable") == [["b"]]


def test_a_model_is_served_by_every_route_to_it() -> None:
    """A model, alone or with its provider, is found over all tiers; a tier of the same name comes first."""
    routes = [way("a", model="x"), way("b", model="x", tier="capable", provider="q"), way("c", tier="x")]
    tiers = Tiers(routes)
    assert names(tiers, "q/x") == [["b"]]
    assert names(tiers, "p/x") == [["a"]]
    assert names(tiers, "x") == [["c"]]


def test_who_comes_first_falls_by_weight() -> None:
    """Each route comes first in proportion to its weight, and all come in the end."""
    rng = Random(7)
    drawn = [in_order("abc", (1.0, 3.0, 0.0), rng.random) for _ in range(4000)]
    first = Counter(order[0] for order in drawn)
    assert {"".join(sorted(order)) for order in drawn} == {"abc"}
    assert abs(first["b"] / first["a"] - 3) < 0.4
    assert not first["c"]
