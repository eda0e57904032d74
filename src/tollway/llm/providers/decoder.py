"""What reads a streamed answer, whatever the vendor."""

from typing import Protocol

from tollway.domain.llm import Completion, Delta


class StreamDecoder(Protocol):
    """Makes pieces and, in the end, a completion of the bytes of a streamed answer."""

    @property
    def done(self) -> bool:
        """Whether the vendor said that the answer is whole."""

    def feed(self, data: bytes) -> list[Delta]:
        """The pieces in these bytes. Raises LlmError for the unreadable and for the vendor's own error."""

    def completion(self) -> Completion:
        """The answer so far; its usage is marked as estimated where the vendor has not told it."""
