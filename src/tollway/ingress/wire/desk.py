"""Who is asking, and where it is accounted: what the wire needs of the process that serves it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tollway.domain.llm import Caller, LlmRequest
from tollway.llm.books import Books
from tollway.llm.calls import CallResult


class WireHead:
    """The headers the wire looks at, as they came."""

    __slots__ = ("api_key", "authorization", "cache", "content_type", "lane", "task_type", "tenant", "vendor_version")

    def __init__(self) -> None:
        self.authorization: bytes | None = None
        self.api_key: bytes | None = None
        self.tenant: bytes | None = None
        self.lane: bytes | None = None
        self.task_type: bytes | None = None
        self.cache: bytes | None = None
        self.content_type: bytes | None = None
        self.vendor_version: bytes | None = None

    @property
    def credential(self) -> bytes | None:
        """The key as an Authorization header has it, whichever header it came in."""
        if self.authorization is None and self.api_key is not None:
            return b"Bearer " + self.api_key
        return self.authorization


WIRE_FIELDS = {
    b"authorization": "authorization",
    b"x-api-key": "api_key",
    b"x-tollway-tenant": "tenant",
    b"x-tollway-lane": "lane",
    b"x-tollway-task-type": "task_type",
    b"x-tollway-cache": "cache",
    b"content-type": "content_type",
    b"anthropic-version": "vendor_version",
}


class Account(Books, Protocol):
    """The books of one request over the wire."""

    @property
    def call_id(self) -> str:
        """The id of the last call made for it; empty before the first."""

    async def recorded(self) -> CallResult | None:
        """The answer that stands on record already, so that no call is made. Raises Problem, LlmError, Fenced."""

    def streams(self, so_far: Callable[[], CallResult | None]) -> None:
        """Its answer has begun to stream; `so_far` tells what came, should it be cut."""


@dataclass(frozen=True, slots=True)
class Guest:
    """Who asks, and what opens an account for each request."""

    caller: Caller
    open_account: Callable[[LlmRequest], Account]


class Desk(Protocol):
    """Knows the keys."""

    def identify(self, head: WireHead) -> Guest:
        """Who asks. Raises Problem."""
