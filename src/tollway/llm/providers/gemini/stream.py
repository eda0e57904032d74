"""A streamed answer: every event is a body of its own with the next parts; the last one says why it ended."""

from typing import Any

import msgspec

from tollway.domain.errors import LlmError
from tollway.domain.llm import Completion, Delta, LlmRequest
from tollway.llm.providers.gemini.response import Body, Gathered
from tollway.llm.providers.sse import SseReader
from tollway.llm.providers.wire import unreadable, vendor_message

_THROTTLED = "RESOURCE_EXHAUSTED"


class _Chunk(Body, rename="camel"):
    error: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class GeminiStream:
    """Implements `StreamDecoder`. A call of a tool comes whole."""

    def __init__(self, request: LlmRequest) -> None:
        self._events = SseReader()
        self._answer = Gathered(request)
        self._calls = 0

    @property
    def done(self) -> bool:
        """Whether the vendor said why the answer ended."""
        return self._answer.ended

    def feed(self, data: bytes) -> list[Delta]:
        """The pieces in these bytes."""
        pieces: list[Delta] = []
        for raw in self._events.feed(data):
            try:
                chunk = _decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise unreadable(error) from None
            if chunk.error is not None:
                code = "rate_limited" if chunk.error.get("status") == _THROTTLED else "provider_5xx"
                message = vendor_message(raw) or "no reason given"
                raise LlmError(code, f"the provider broke the stream off: {message}").charged()
            self._take(chunk, pieces)
        return pieces

    def completion(self) -> Completion:
        """The answer so far."""
        return self._answer.completion()

    def _take(self, chunk: Body, pieces: list[Delta]) -> None:
        for part, call in self._answer.take(chunk):
            if call is not None:
                pieces.append(Delta("tool", index=self._calls, id=call.id, name=call.name))
                pieces.append(Delta("arguments", call.arguments, self._calls))
                self._calls += 1
            elif part.text:
                pieces.append(Delta("reasoning" if part.thought else "text", part.text))
