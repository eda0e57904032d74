"""What the gateway needs of a way to a provider: our own transport, or a library that brings its own."""

from typing import Protocol

from tollway.llm.transport import Answer


class Upstream(Protocol):
    """One request and its answer as it arrives. Always `close` it: that ends the request, whole or not."""

    status: int
    retry_after_s: float | None
    fields: dict[bytes, bytes]

    async def first(self, first_byte_s: float | None) -> bytes | None:
        """Send the request and wait for the first piece of the answer's body, at most `first_byte_s`."""

    async def read(self) -> bytes | None:
        """The next piece of the body, None at its end."""

    async def read_all(self, first: bytes | None) -> bytes:
        """The rest of the body after its first piece."""

    async def close(self) -> None:
        """End the exchange; may be called twice."""


class Channel(Protocol):
    """Makes calls to one provider, each exactly one request. `stop` may be called twice."""

    async def start(self) -> None:
        """Before the first call."""

    async def stop(self) -> None:
        """After the last one."""

    async def post(
        self, body: bytes, call_id: str, timeout_s: float, first_byte_s: float | None, path: str = ""
    ) -> Answer:
        """Send and read the whole answer, whatever its status. Raises LlmError."""

    def open(self, body: bytes, call_id: str, timeout_s: float, path: str = "") -> Upstream:
        """An exchange not yet begun."""
