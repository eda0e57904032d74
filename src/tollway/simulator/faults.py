"""What may go wrong with a call, and the draw that decides it. Pure: the randomness is an argument."""

from collections.abc import Mapping
from enum import StrEnum
from random import Random


class Fault(StrEnum):
    """How a call ends badly; all but `CANCELLED` are injected by the rates of the configuration.

    429 at once; 500 after the latency; slow: an answer `slow_s` late; garbage: an answer that cannot be read;
    cut: an answer whose connection ends half-way; cancelled: the client left first.
    """

    STATUS_429 = "status_429"
    STATUS_500 = "status_500"
    SLOW = "slow"
    GARBAGE = "garbage"
    CUT = "cut"
    CANCELLED = "cancelled"


class FaultLaw:
    """Draws at most one fault a call; each rate is a share of all calls, their sum at most 1 (else ValueError)."""

    __slots__ = ("_steps",)

    def __init__(self, rates: Mapping[Fault, float]) -> None:
        steps: list[tuple[float, Fault]] = []
        total = 0.0
        for fault, rate in rates.items():
            if rate > 0:
                total += rate
                steps.append((total, fault))
        if total > 1 + 1e-9:
            raise ValueError(f"the rates sum up to {total:g}, more than 1")
        self._steps = steps

    def draw(self, rng: Random) -> Fault | None:
        """The fault of the next call, or None. Uses no randomness when there are no rates."""
        if not self._steps:
            return None
        u = rng.random()
        return next((fault for until, fault in self._steps if u < until), None)
