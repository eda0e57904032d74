"""What may stand before a route, as the governor asks it: capacity, a breaker, the provider's retry budget."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tollway.domain.llm import Caller


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


class Ticket(Protocol):
    """A call under way, as its route's breaker knows it."""


class Breaker(Protocol):
    """Whether a route is well."""

    @property
    def opens_at(self) -> float | None:
        """The monotonic second when it is worth asking again; None when it may be asked now."""

    def admits(self, now: float, chance: float) -> bool:
        """Whether a call may go to the route."""

    def begin(self, now: float) -> Ticket:
        """A call begins."""

    def end(self, ticket: Ticket, now: float, ok: bool, output_tokens: int | None) -> None:
        """It ended; not `ok` is what speaks against the route."""

    def drop(self, ticket: Ticket) -> None:
        """It ended in a way that says nothing of the route."""

    def shown(self) -> dict[str, Any]:
        """Its `state`, since when and why, as JSON."""


class Retries(Protocol):
    """The providers' budgets of repeated calls."""

    def may_repeat(self, provider: str, now: float) -> bool:
        """Whether there is one left."""

    def first(self, provider: str, now: float) -> None:
        """A first call is made."""

    def repeated(self, provider: str, now: float) -> None:
        """A repeated one is made."""


class UnboundedRetries:
    """Repeated calls without a bound."""

    def may_repeat(self, provider: str, now: float) -> bool:
        """Always."""
        return True

    def first(self, provider: str, now: float) -> None:
        """Nothing is counted."""

    def repeated(self, provider: str, now: float) -> None:
        """Nothing is counted."""


@dataclass(frozen=True, slots=True)
class Guards:
    """All guards, by route; a route without limits has no limiter."""

    limiters: Mapping[str, Limiter] = field(default_factory=dict)
    breakers: Mapping[str, Breaker] = field(default_factory=dict)
    retries: Retries = field(default_factory=UnboundedRetries)
