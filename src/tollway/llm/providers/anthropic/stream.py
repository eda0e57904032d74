"""A streamed message: blocks by index, input counted at its start and output at its end."""

from dataclasses import replace

import msgspec

from tollway.domain.errors import LlmError
from tollway.domain.llm import Completion, Delta, LlmRequest, ToolCall, Usage
from tollway.llm.providers.anthropic.response import Block, WireUsage, answers, assemble, neutral_usage
from tollway.llm.providers.sse import SseReader
from tollway.llm.providers.wire import estimated, streamed_tokens, unreadable, vendor_message

_USAGE_FIELDS = WireUsage.__struct_fields__
_KINDS = {"text": "text", "thinking": "reasoning", "tool_use": "arguments"}


class _Message(msgspec.Struct):
    model: str = ""
    usage: WireUsage | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
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
    """A block under way: its parts are given on as deltas of `kind`, `index` numbering the calls of tools."""

    __slots__ = ("block", "index", "kind", "parts")

    def __init__(self, block: Block, kind: str, index: int) -> None:
        self.block = block
        self.kind = kind
        self.index = index
        self.parts: list[str] = []


class AnthropicStream:
    """Implements `StreamDecoder`. Where a schema was asked for, the pieces are those of the answering tool's input."""

    def __init__(self, request: LlmRequest) -> None:
        self._request = request
        self._events = SseReader()
        self._blocks: dict[int, _Open] = {}
        self._calls = 0
        self._usage = WireUsage()
        self._model = ""
        self._stop: str | None = None
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether `message_stop` came."""
        return self._ended

    def feed(self, data: bytes) -> list[Delta]:
        """The pieces in these bytes."""
        pieces: list[Delta] = []
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
        text = self._joined("text")
        calls = [
            ToolCall(one.block.id, one.block.name, "".join(one.parts) or "{}")
            for one in self._blocks.values()
            if one.block.type == "tool_use"
        ]
        thought = self._joined("thinking")
        usage = self._counted([part for one in self._blocks.values() for part in one.parts])
        completion = assemble(self._request, text, calls, usage, stop=self._stop, model=self._model)
        return replace(completion, reasoning=thought) if thought else completion

    def _joined(self, kind: str) -> str:
        return "".join("".join(one.parts) for one in self._blocks.values() if one.block.type == kind)

    def _counted(self, parts: list[str]) -> Usage:
        chars = sum(map(len, parts))
        if self._usage.input_tokens is None:
            return estimated(self._request, chars, len(parts))
        usage = neutral_usage(self._usage)
        if self._stop is not None:
            return usage
        return replace(
            usage, output_tokens=max(usage.output_tokens, streamed_tokens(chars, len(parts))), estimated=True
        )

    def _take(self, event: _Event, pieces: list[Delta]) -> None:
        if event.type == "content_block_delta" and event.delta is not None:
            self._take_delta(event.index, event.delta, pieces)
        elif event.type == "content_block_start" and event.content_block is not None:
            self._open(event.index, event.content_block, pieces)
        elif event.type == "message_start" and event.message is not None:
            self._model = event.message.model
            self._count(event.message.usage)
        elif event.type == "message_delta":
            self._count(event.usage)
            if event.delta is not None:
                self._stop = event.delta.stop_reason or self._stop
        elif event.type == "message_stop":
            self._ended = True

    def _open(self, index: int, block: Block, pieces: list[Delta]) -> None:
        opened = self._blocks[index] = _Open(block, _KINDS.get(block.type, ""), self._calls)
        if block.type == "tool_use":
            if answers(self._request, block.name):
                opened.kind = "text"
            else:
                self._calls += 1
                pieces.append(Delta("tool", index=opened.index, id=block.id, name=block.name))
        first = block.text or block.thinking
        if first:
            opened.parts.append(first)
            pieces.append(Delta(opened.kind, first))

    def _take_delta(self, index: int, delta: _Delta, pieces: list[Delta]) -> None:
        opened = self._blocks.get(index)
        if opened is None:
            raise unreadable(f"a delta of block {index}, which never began")
        piece = delta.text or delta.partial_json or delta.thinking
        if not piece:
            return
        opened.parts.append(piece)
        if opened.kind:
            pieces.append(Delta(opened.kind, piece, opened.index if opened.kind == "arguments" else 0))

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
