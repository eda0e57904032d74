"""Who asks over the wire, and where it is accounted: the seam between the wire and the process that serves it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tollway.domain.errors import LlmError
from tollway.domain.llm import Caller, LlmRequest
from tollway.llm.books import Books
from tollway.llm.calls import CallResult


class Account(Books, Protocol):
    """The books of one request over the wire."""

    @property
    def call_id(self) -> str:
        """The id of the last call made for it; empty before the first."""

    async def recorded(self) -> CallResult | None:
        """The answer that stands on record already, so that no call is made. Raises LlmError, Fenced."""

    def streams(self, so_far: Callable[[], CallResult | None]) -> None:
        """Its answer has begun to stream; `so_far` tells what came, should it be cut."""

    async def stand_by(self, error: LlmError) -> None:
        """There is no capacity now: return when it may be asked again, or raise the error."""

    def gave_up(self) -> None:
        """The request ends without an answer."""


@dataclass(frozen=True, slots=True)
class Guest:
    """Who asks, and what opens an account for each request."""

    caller: Caller
    open_account: Callable[[LlmRequest], Account]
