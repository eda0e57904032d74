"""A streamed chat completion: chunks until `[DONE]`, tool calls put together by index, usage in the last chunk."""

from typing import Any

import msgspec

from tollway.domain.errors import LlmError
from tollway.domain.llm import Completion, Delta, LlmRequest, ToolCall
from tollway.llm.providers.openai.response import WireUsage, answer_text, neutral_usage, stop_reason
from tollway.llm.providers.sse import SseReader
from tollway.llm.providers.wire import estimated, unreadable, vendor_message


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    model: str = ""
    usage: WireUsage | None = None
    error: dict[str, Any] | str | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class _Call:
    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


class OpenAiStream:
    """Implements `StreamDecoder`. A server that ends after its finish reason without `[DONE]` is taken to be done."""

    def __init__(self, request: LlmRequest) -> None:
        self._request = request
        self._events = SseReader()
        self._text: list[str] = []
        self._thought: list[str] = []
        self._refused = False
        self._calls: dict[int, _Call] = {}
        self._model = ""
        self._finish: str | None = None
        self._usage: WireUsage | None = None
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether `[DONE]` came, or everything that it would follow."""
        return self._ended or (self._finish is not None and self._usage is not None)

    def feed(self, data: bytes) -> list[Delta]:
        """The pieces in these bytes; a refusal's words are none."""
        pieces: list[Delta] = []
        for event in self._events.feed(data):
            if event == b"[DONE]":
                self._ended = self._finish is not None
                continue
            try:
                chunk = _decode(event)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise unreadable(error) from None
            if chunk.error:
                message = vendor_message(event) or "no reason given"
                raise LlmError("provider_5xx", f"the provider broke the stream off: {message}").charged()
            self._take(chunk, pieces)
        return pieces

    def completion(self) -> Completion:
        """The answer so far."""
        text = "".join(self._text)
        calls = tuple(ToolCall(call.id, call.name, "".join(call.arguments)) for _, call in sorted(self._calls.items()))
        if self._usage is not None:
            usage = neutral_usage(self._usage)
        else:
            parts = [*self._text, *self._thought, *(part for call in self._calls.values() for part in call.arguments)]
            usage = estimated(self._request, sum(map(len, parts)), len(parts))
        reason = stop_reason(self._finish, self._refused, bool(calls))
        thought = "".join(self._thought)
        return Completion(answer_text(text, self._request), calls, usage, reason, self._model, thought)

    def _take(self, chunk: _Chunk, pieces: list[Delta]) -> None:
        self._model = chunk.model or self._model
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices or ():
            self._finish = choice.finish_reason or self._finish
            delta = choice.delta
            if delta is None:
                continue
            if delta.refusal:
                self._refused = True
                self._text.append(delta.refusal)
            thought = delta.reasoning_content or delta.reasoning
            if thought:
                self._thought.append(thought)
                pieces.append(Delta("reasoning", thought))
            if delta.content:
                self._text.append(delta.content)
                pieces.append(Delta("text", delta.content))
            for part in delta.tool_calls or ():
                self._take_call(part, pieces)

    def _take_call(self, part: _ToolCall, pieces: list[Delta]) -> None:
        call = self._calls.get(part.index)
        new = call is None
        if call is None:
            call = self._calls[part.index] = _Call()
        call.id = part.id or call.id
        function = part.function
        if function is not None:
            call.name = function.name or call.name
        if new:
            pieces.append(Delta("tool", index=part.index, id=call.id, name=call.name))
        if function is not None and function.arguments:
            call.arguments.append(function.arguments)
            pieces.append(Delta("arguments", function.arguments, part.index))
