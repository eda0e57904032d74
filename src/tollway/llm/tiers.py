"""Which route serves a tier: the lowest priority number, and within it by weight. Pure: chance is an argument."""

from collections.abc import Iterable
from itertools import accumulate
from typing import Generic, Protocol, TypeVar


class Choosable(Protocol):
    """What is asked of a route."""

    @property
    def tier(self) -> str:
        """The tier it serves."""

    @property
    def priority(self) -> int:
        """Lower is asked first."""

    @property
    def weight(self) -> float:
        """Its share among equals, above 0."""


R = TypeVar("R", bound=Choosable)


class Tiers(Generic[R]):
    """The routes by tier, made once."""

    def __init__(self, routes: Iterable[R]) -> None:
        by_tier: dict[str, dict[int, list[R]]] = {}
        for route in routes:
            by_tier.setdefault(route.tier, {}).setdefault(route.priority, []).append(route)
        self._groups = {
            tier: tuple(groups[priority] for priority in sorted(groups)) for tier, groups in by_tier.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The tiers that some route serves."""
        return tuple(self._groups)

    def pick(self, tier: str, chance: float) -> R | None:
        """The route to take, `chance` being in [0, 1); None for a tier nobody serves."""
        groups = self._groups.get(tier)
        if groups is None:
            return None
        first = groups[0]
        if len(first) == 1:
            return first[0]
        marks = list(accumulate(route.weight for route in first))
        drawn = chance * marks[-1]
        return next((route for route, mark in zip(first, marks, strict=True) if drawn < mark), first[-1])
