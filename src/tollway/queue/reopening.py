"""How gates are opened: to whoever is due, but to a dependency's runs by a slow start, in order and with no herd. Pure.

A gate says when it opens at the latest. A dependency's opens sooner, on news that a probe succeeded; then four runs go,
and a quarter of a second later twice as many, for as long as no news says that it is in trouble again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tollway.domain.gates import BATCH_MAX, Gate, Opening

FIRST = 4
LOOK_S = 0.25
"""Seconds from one batch of a slow start to the next, which is twice as large."""

FORGET_S = 30.0
"""A dependency that had nobody waiting for so long starts slowly again."""

_DEPENDENCIES = Gate.DEPENDENCY.before("")


@dataclass(slots=True)
class _SlowStart:
    size: int = FIRST
    next_at: float = 0.0
    shut_until: float = 0.0
    early: bool = False


class Reopening:
    """What one keeper knows of dependencies; all times are seconds since the epoch."""

    def __init__(self) -> None:
        self._starts: dict[str, _SlowStart] = {}

    def shut(self, dependency: str, until: float) -> None:
        """A dependency is in trouble: nobody goes before `until`, and then few first."""
        self._starts[Gate.DEPENDENCY.before(dependency)] = _SlowStart(shut_until=until)

    def well(self, dependency: str, now: float) -> None:
        """A dependency serves again: its runs may go before their time, few first."""
        self._starts[Gate.DEPENDENCY.before(dependency)] = _SlowStart(next_at=now, early=True)

    def openings(self, opens: Mapping[str, float], now: float) -> list[Opening]:
        """Which gates to open now, given when each opens at the latest to the first behind it; it counts as done."""
        found = []
        for gate, opens_at in opens.items():
            if not gate.startswith(_DEPENDENCIES):
                if opens_at <= now:
                    found.append(Opening(gate))
            elif now >= self._next_at(gate, opens_at, now):
                start = self._starts.setdefault(gate, _SlowStart())
                found.append(Opening(gate, start.size, start.early))
                start.size = min(2 * start.size, BATCH_MAX)
                start.next_at = now + LOOK_S
        self._forget(opens, now)
        return found

    def next_at(self, opens: Mapping[str, float], now: float) -> float | None:
        """When there will be something to open, by what stands behind the gates now; None: not by that."""
        return min(
            (
                self._next_at(gate, opens_at, now) if gate.startswith(_DEPENDENCIES) else opens_at
                for gate, opens_at in opens.items()
            ),
            default=None,
        )

    def _next_at(self, gate: str, opens_at: float, now: float) -> float:
        start = self._starts.get(gate)
        if start is None:
            return opens_at
        return max(start.next_at, start.shut_until, now if start.early else opens_at)

    def _forget(self, opens: Mapping[str, float], now: float) -> None:
        """Nobody waits behind the gate for long: what comes next starts anew."""
        for gate, start in list(self._starts.items()):
            if gate not in opens and now > max(start.next_at, start.shut_until) + FORGET_S:
                del self._starts[gate]
