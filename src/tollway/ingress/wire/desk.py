"""Who is asking over the wire: the headers that tell it, and the seam to those who know the keys."""

from collections.abc import Callable
from typing import Protocol

from tollway.domain.errors import Problem
from tollway.llm.accounts import Guest


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


class Desk(Protocol):
    """Knows the keys."""

    def identify(self, head: WireHead) -> Guest:
        """Who asks. Raises Problem."""


class RunDesk:
    """Implements `Desk` in a worker: the keys of its runs, found by `guest`, and none else."""

    def __init__(self, guest: Callable[[str], Guest | None]) -> None:
        self._guest = guest

    def identify(self, head: WireHead) -> Guest:
        """Whose run it is. Raises Problem `unauthenticated`, `stale_attempt`."""
        said = head.credential
        if said is None or said[:7].lower() != b"bearer ":
            raise Problem("unauthenticated", "The request carries no key; send the `api_key` of `run.wire`.")
        guest = self._guest(said[7:].strip().decode("latin-1"))
        if guest is None:
            raise Problem("stale_attempt", "This key was made for an attempt of a run that is over; see `run.wire`.")
        return guest
