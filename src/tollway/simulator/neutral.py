"""What a wire makes of a request, and what it is given to answer with: no vendor's form, and the seam between the two.

A wire is one file: bytes → `Ask`, and `Answer` → bytes, whole or as server-sent events, with its vendor's errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tollway.simulator.buckets import Gauges

Finish = Literal["stop", "length", "tool"]
ErrorKind = Literal["bad_request", "not_found", "too_large", "rate_limited", "server_error"]


class BadAsk(Exception):
    """A request the provider cannot take; the wire says so in its vendor's form, with status 400."""

    def __init__(self, message: str, *, field: str | None = None, model: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.model = model


@dataclass(slots=True)
class Ask:
    """A request for a completion. `texts` are the texts of its messages in order, the last being the one to answer.

    With `schema` (JSON Schema as bytes) the answer must fit it; with `tool` it is a call of that tool, whose
    arguments fit. `finish` is what the vendor then calls the end. With `embeds` the texts are to become vectors, of
    `dimensions` if it says so, `packed` as base64. `counts_output` says whether the vendor's limit of tokens counts
    output too.
    """

    model: str
    texts: Sequence[str]
    max_tokens: int | None = None
    stream: bool = False
    include_usage: bool = False
    schema: bytes | None = None
    tool: str | None = None
    finish: Finish = "stop"
    embeds: bool = False
    dimensions: int | None = None
    packed: bool = False
    counts_output: bool = True


@dataclass(slots=True)
class Answer:
    """A completion: words, JSON that fits a schema, or a tool's arguments.

    Of its tokens, `cached_tokens` of input were in the prompt cache and `reasoning_tokens` of output were thought.
    `events` counts what was streamed, for wires that number it.
    """

    n: int
    text: str
    input_tokens: int
    output_tokens: int
    finish: Finish
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    events: int = 0


class Wire(Protocol):
    """One vendor's form of asking and answering. Event streams are sequences of whole server-sent events."""

    def parse(self, body: bytes) -> Ask:
        """The request in neutral form; raises BadAsk."""

    def whole(self, ask: Ask, answer: Answer) -> bytes:
        """The answer as one JSON body."""

    def opening(self, ask: Ask, answer: Answer) -> bytes:
        """The events before the first piece."""

    def piece(self, ask: Ask, answer: Answer, text: str) -> bytes:
        """The event that carries a piece of the text."""

    def closing(self, ask: Ask, answer: Answer) -> bytes:
        """The events after the last piece."""

    def error(self, kind: ErrorKind, message: str, field: str | None = None) -> bytes:
        """The body of an error."""

    def headers(self, n: int) -> bytes:
        """Header lines every answer carries; `n` is the number of the call."""

    def limit_headers(self, gauges: Gauges) -> bytes:
        """Header lines that tell how the limits stand."""


def estimate_tokens(texts: Sequence[str]) -> int:
    """Tokens of a prompt as this provider counts them: a quarter of its characters, rounded up, at least 1."""
    return max(1, (sum(map(len, texts)) + 3) // 4)
