"""What may stand before a route, as the governor asks it: capacity, a breaker, the provider's retry budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tollway.domain.llm import Caller
from tollway.llm.breakers.board import BreakerBoard
from tollway.llm.retries import RetryBudgets


class Hold(Protocol):
    """Capacity held for one call; exactly one of these ends it."""

    def settle(self, input_tokens: int, output_tokens: int) -> None:
        """The call came back: what it really took."""

    def failed(self) -> None:
        """It was sent, and nobody knows what it took."""

    def release(self) -> None:
        """It was surely never sent."""


class Limiter(Protocol):
    """One route's capacity, spent by this process."""

    @property
    def headroom(self) -> float:
        """The share of capacity that is free, 0 to 1."""

    def try_take(self, caller: Caller, input_tokens: int, max_tokens: int) -> Hold | None:
        """Capacity for a call, if nobody waits for it and it is there."""

    async def take(self, caller: Caller, input_tokens: int, max_tokens: int, deadline: float) -> Hold:
        """The same, after a fair wait. Raises LlmError `no_capacity` at the deadline (monotonic seconds)."""

    def throttled(self, retry_after_s: float | None) -> None:
        """The vendor answered 429."""

    def wait_s(self, caller: Caller, input_tokens: int, max_tokens: int) -> float:
        """How long the wait would be, seconds."""

    def shown(self) -> dict[str, Any]:
        """What is leased and who waits, as JSON; empty at rest."""


@dataclass(frozen=True, slots=True)
class Guards:
    """All guards, by route; a route without limits has no limiter."""

    limiters: Mapping[str, Limiter]
    breakers: BreakerBoard
    retries: RetryBudgets
