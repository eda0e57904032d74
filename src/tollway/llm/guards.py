"""What stands before every route: its capacity, its breaker, its provider's budget of repeated calls."""

from dataclasses import dataclass, field

from tollway.llm.breakers.board import BreakerBoard
from tollway.llm.capacity.leases import Capacity
from tollway.llm.capacity.lengths import Lengths
from tollway.llm.retries import RetryBudgets


@dataclass(frozen=True, slots=True)
class Guards:
    """The guards of a process; `lengths` is what it has learned of how much calls take."""

    capacity: Capacity
    breakers: BreakerBoard
    retries: RetryBudgets
    lengths: Lengths = field(default_factory=Lengths)
