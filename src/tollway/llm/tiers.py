"""Which routes serve a tier or a model, in which order: by priority, provisioned capacity first, then by weight.

Pure: chance is an argument. The tiers a tier falls back to come after all of its own routes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tollway.config import Route, Tier


class Choosable(Protocol):
    """What is asked of a way to serve."""

    @property
    def route(self) -> Route:
        """The route as configured."""


R = TypeVar("R", bound=Choosable)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group(Generic[R]):
    """Routes that are asked alike. `spills`: the next group is on-demand capacity for the same, so none waits here."""

    tier: str
    routes: tuple[R, ...]
    spills: bool


class Tiers(Generic[R]):
    """The routes by what may be asked for, made once: a tier, a model, or `provider/model`."""

    def __init__(self, routes: Iterable[R], tiers: Mapping[str, Tier] | None = None) -> None:
        routes = tuple(routes)
        own: dict[str, list[R]] = {}
        models: dict[str, list[R]] = {}
        for one in routes:
            own.setdefault(one.route.tier, []).append(one)
            models.setdefault(one.route.model, []).append(one)
            models.setdefault(f"{one.route.provider}/{one.route.model}", []).append(one)
        self.names = tuple(own)
        self.models = tuple(dict.fromkeys(one.route.model for one in routes))
        fallbacks = {name: tier.fallback for name, tier in (tiers or {}).items()}
        self._groups = {name: _grouped(served) for name, served in models.items()}
        for name in own:
            served = (name, *fallbacks.get(name, ()))
            self._groups[name] = tuple(group for tier in served for group in _grouped(own.get(tier, ())))

    def groups(self, name: str) -> tuple[Group[R], ...]:
        """The routes of a tier or model, in the order in which they are asked; none for what nobody serves."""
        return self._groups.get(name, ())


def in_order(routes: Sequence[T], weights: Sequence[float], chance: Callable[[], float]) -> list[T]:
    """The routes in a random order in which each comes first in proportion to its weight. `chance` is in [0, 1)."""
    left = list(zip(routes, weights, strict=True))
    drawn: list[T] = []
    while len(left) > 1:
        mark = chance() * sum(weight for _, weight in left)
        index = 0
        while index < len(left) - 1 and mark >= left[index][1]:
            mark -= left[index][1]
            index += 1
        drawn.append(left.pop(index)[0])
    return [*drawn, *(one for one, _ in left)]


def _grouped(routes: Sequence[R]) -> tuple[Group[R], ...]:
    by_rank: dict[tuple[int, bool], list[R]] = {}
    for one in routes:
        by_rank.setdefault((one.route.priority, one.route.capacity != "provisioned"), []).append(one)
    ranks = sorted(by_rank)
    return tuple(
        Group(by_rank[rank][0].route.tier, tuple(by_rank[rank]), spills=(rank[0], not rank[1]) in ranks[place + 1 :])
        for place, rank in enumerate(ranks)
    )
