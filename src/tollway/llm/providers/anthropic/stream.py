"""A streamed message: blocks by index, input counted at its start and output at its end."""

from dataclasses import replace

import msgspec

from tollway.domain.errors import LlmError
from tollway.domain.llm import Completion, LlmRequest, ToolCall, Usage
from tollway.llm.providers.anthropic.response import Block, WireUsage, assemble, neutral_usage
from tollway.llm.providers.sse import SseReader
from tollway.llm.providers.wire import estimated, unreadable, vendor_message

_USAGE_FIELDS = WireUsage.__struct_fields__


class _Message(msgspec.Struct):
    model: str = ""
    usage: WireUsage | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Error(msgspec.Struct):
    type: str = ""


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: Block | None = None
    delta: _Delta | None = None
    usage: WireUsage | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Event).decode


class _Open:
    """A block under way."""

    __slots__ = ("block", "parts")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.parts: list[str] = []


class AnthropicStream:
    """Implements `StreamDecoder`. Where a schema was asked for, the pieces are those of the answering tool's input."""

    def __init__(self, request: LlmRequest) -> None:
        self._request = request
        self._events = SseReader()
        self._blocks: dict[int, _Open] = {}
        self._usage = WireUsage()
        self._model = ""
        self._stop: str | None = None
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether `message_stop` came."""
        return self._ended

    def feed(self, data: bytes) -> list[str]:
        """The pieces of text in these bytes."""
        pieces: list[str] = []
        for raw in self._events.feed(data):
            try:
                event = _decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise unreadable(error) from None
            if event.type == "error":
                raise _broken_off(event.error, raw)
            self._take(event, pieces)
        return pieces

    def completion(self) -> Completion:
        """The answer so far."""
        text = "".join("".join(one.parts) for one in self._blocks.values() if one.block.type == "text")
        calls = [
            ToolCall(one.block.id, one.block.name, "".join(one.parts) or "{}")
            for one in self._blocks.values()
            if one.block.type == "tool_use"
        ]
        usage = self._counted(len(text) + sum(len(call.arguments) for call in calls))
        return assemble(self._request, text, calls, usage, stop=self._stop, model=self._model)

    def _counted(self, chars: int) -> Usage:
        if self._usage.input_tokens is None:
            return estimated(self._request, chars)
        usage = neutral_usage(self._usage)
        if self._stop is not None:
            return usage
        return replace(usage, output_tokens=max(usage.output_tokens, (chars + 3) // 4), estimated=True)

    def _take(self, event: _Event, pieces: list[str]) -> None:
        if event.type == "content_block_delta" and event.delta is not None:
            self._take_delta(event.index, event.delta, pieces)
        elif event.type == "content_block_start" and event.content_block is not None:
            opened = self._blocks[event.index] = _Open(event.content_block)
            if event.content_block.text:
                opened.parts.append(event.content_block.text)
                pieces.append(event.content_block.text)
        elif event.type == "message_start" and event.message is not None:
            self._model = event.message.model
            self._count(event.message.usage)
        elif event.type == "message_delta":
            self._count(event.usage)
            if event.delta is not None:
                self._stop = event.delta.stop_reason or self._stop
        elif event.type == "message_stop":
            self._ended = True

    def _take_delta(self, index: int, delta: _Delta, pieces: list[str]) -> None:
        opened = self._blocks.get(index)
        if opened is None:
            raise unreadable(f"a delta of block {index}, which never began")
        piece = delta.text or delta.partial_json
        if not piece:
            return
        opened.parts.append(piece)
        if opened.block.type == "text" or (self._request.schema and opened.block.name == self._request.schema_name):
            pieces.append(piece)

    def _count(self, usage: WireUsage | None) -> None:
        """Take over what is told; the last word on each number holds."""
        for field in _USAGE_FIELDS if usage is not None else ():
            value = getattr(usage, field)
            if value is not None:
                setattr(self._usage, field, value)


def _broken_off(error: _Error | None, raw: bytes) -> LlmError:
    code = "rate_limited" if error is not None and error.type == "rate_limit_error" else "provider_5xx"
    message = vendor_message(raw) or "no reason given"
    return LlmError(code, f"the provider broke the stream off: {message}").charged()
