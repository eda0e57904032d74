"""A streamed response: typed events, the last of which holds the whole answer with its usage."""

from typing import Any

import msgspec

from tollway.domain.errors import LlmError
from tollway.domain.llm import Completion, Delta, LlmRequest, ToolCall
from tollway.llm.providers.openai.response import answer_text
from tollway.llm.providers.openai.responses.response import THROTTLED, Item, Response, completion_of
from tollway.llm.providers.sse import SseReader
from tollway.llm.providers.wire import estimated, shorten, unreadable

_TEXT = "response.output_text.delta"
_REFUSAL = "response.refusal.delta"
_ARGUMENTS = "response.function_call_arguments.delta"
_REASONING = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")
_ITEM = "response.output_item.added"
_LAST = ("response.completed", "response.incomplete", "response.failed")


class _Head(msgspec.Struct):
    type: str
    output_index: int = 0
    delta: Any = ""


class _Added(msgspec.Struct):
    item: Item


class _Last(msgspec.Struct):
    response: Response


class _Broken(msgspec.Struct):
    message: str | None = None
    code: str | None = None
    error: dict[str, Any] | None = None


_head = msgspec.json.Decoder(_Head).decode
_added = msgspec.json.Decoder(_Added).decode
_last = msgspec.json.Decoder(_Last).decode
_broken = msgspec.json.Decoder(_Broken).decode


class _Call:
    __slots__ = ("id", "index", "name", "parts")

    def __init__(self, index: int, item: Item) -> None:
        self.index = index
        self.id = item.call_id or item.id or ""
        self.name = item.name
        self.parts = [item.arguments] if item.arguments else []


class ResponsesStream:
    """Implements `StreamDecoder`. Until the last event came, the answer is what the deltas told."""

    def __init__(self, request: LlmRequest) -> None:
        self._request = request
        self._events = SseReader()
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._thought: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._whole: Completion | None = None

    @property
    def done(self) -> bool:
        """Whether the whole answer came."""
        return self._whole is not None

    def feed(self, data: bytes) -> list[Delta]:
        """The pieces in these bytes; a refusal's words are none."""
        pieces: list[Delta] = []
        for raw in self._events.feed(data):
            if raw == b"[DONE]":
                continue
            try:
                self._take(raw, pieces)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise unreadable(error) from None
        return pieces

    def completion(self) -> Completion:
        """The answer so far."""
        if self._whole is not None:
            return self._whole
        text, thought = "".join(self._text or self._refusal), "".join(self._thought)
        calls = tuple(ToolCall(call.id, call.name, "".join(call.parts)) for call in self._calls.values())
        parts = [*(self._text or self._refusal), *self._thought]
        parts += [part for call in self._calls.values() for part in call.parts]
        usage = estimated(self._request, sum(map(len, parts)), len(parts))
        reason = "refusal" if self._refusal else "tool_calls" if calls else "stop"
        return Completion(answer_text(text, self._request), calls, usage, reason, "", thought)

    def _take(self, raw: bytes, pieces: list[Delta]) -> None:
        event = _head(raw)
        kind = event.type
        piece = event.delta if isinstance(event.delta, str) else ""
        if kind == _TEXT:
            self._text.append(piece)
            pieces.append(Delta("text", piece))
        elif kind == _ARGUMENTS:
            call = self._calls.get(event.output_index)
            if call is None:
                raise unreadable(f"arguments of item {event.output_index}, which never began")
            call.parts.append(piece)
            pieces.append(Delta("arguments", piece, call.index))
        elif kind == _ITEM:
            self._begin(event.output_index, _added(raw).item, pieces)
        elif kind in _REASONING:
            self._thought.append(piece)
            pieces.append(Delta("reasoning", piece))
        elif kind == _REFUSAL:
            self._refusal.append(piece)
        elif kind in _LAST:
            self._whole = completion_of(_last(raw).response, self._request)
        elif kind == "error":
            raise _broken_off(raw)

    def _begin(self, at: int, item: Item, pieces: list[Delta]) -> None:
        if item.type == "function_call":
            call = self._calls[at] = _Call(len(self._calls), item)
            pieces.append(Delta("tool", index=call.index, id=call.id, name=call.name))
            if item.arguments:
                pieces.append(Delta("arguments", item.arguments, call.index))


def _broken_off(raw: bytes) -> LlmError:
    given = _broken(raw)
    error = given.error or {}
    code = "rate_limited" if THROTTLED in (given.code, error.get("code")) else "provider_5xx"
    message = shorten(str(given.message or error.get("message") or "no reason given"))
    return LlmError(code, f"the provider broke the stream off: {message}").charged()
