"""Gates: what keeps a run from being claimed, when it ends, and how that is told."""

from enum import StrEnum
from typing import NamedTuple

BATCH_MAX = 500
"""How many runs go through a gate in one statement at most."""


class Gate(StrEnum):
    """What a run waits behind, as `queue.gate` says it; where a gate has a key, as KIND:KEY."""

    TIME = "time"
    CAPACITY = "capacity"
    DEPENDENCY = "dependency"
    KEY = "key"
    BUDGET = "budget"

    def before(self, key: str) -> str:
        """The gate of this kind that stands before `key`: a tier, a dependency."""
        return f"{self.value}:{key}"


class Opening(NamedTuple):
    """Let at most `most` runs through a gate: those that are due, or with `early` any."""

    gate: str
    most: int = BATCH_MAX
    early: bool = False


class Blocked(NamedTuple):
    """Why a run does not start: `reason`, the `key` that has to do with it, and `until` when (epoch seconds)."""

    reason: str
    key: str | None = None
    until: float | None = None
