"""The body of a message as a neutral completion."""

from dataclasses import replace
from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from tollway.domain.llm import Completion, LlmRequest, ToolCall, Usage
from tollway.llm.providers.wire import estimated, unreadable
from tollway.llm.schema import prepare, unwrap

Tokens = Annotated[int, Meta(ge=0, le=1_000_000_000)]
_STOP_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}


class _Writes(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: Tokens | None = None


class WireUsage(msgspec.Struct, gc=False):
    """The vendor's count; of a stream it comes in two parts, each with what is new."""

    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    cache_read_input_tokens: Tokens | None = None
    cache_creation_input_tokens: Tokens | None = None
    cache_creation: _Writes | None = None


class Block(msgspec.Struct):
    """A block of content: text, thinking, a tool's use, or one we do not read."""

    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: Raw = Raw(b"{}")


class _Body(msgspec.Struct):
    content: list[Block]
    model: str = ""
    stop_reason: str | None = None
    usage: WireUsage | None = None


_decode = msgspec.json.Decoder(_Body).decode


def decode(body: bytes, request: LlmRequest) -> Completion:
    """The completion. Raises LlmError `bad_response`."""
    try:
        given = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from None
    text = "".join(block.text for block in given.content if block.type == "text")
    thought = "".join(block.thinking for block in given.content)
    calls = [
        ToolCall(block.id, block.name, bytes(block.input).decode())
        for block in given.content
        if block.type == "tool_use"
    ]
    if given.usage is None or given.usage.input_tokens is None or given.usage.output_tokens is None:
        usage = estimated(request, len(text) + len(thought) + sum(len(call.arguments) for call in calls))
    else:
        usage = neutral_usage(given.usage)
    completion = assemble(request, text, calls, usage, stop=given.stop_reason, model=given.model)
    return replace(completion, reasoning=thought) if thought else completion


def answers(request: LlmRequest, tool: str) -> bool:
    """Whether a call of this tool is the answer itself, because a schema was asked for."""
    return request.schema is not None and tool == request.schema_name


def assemble(
    request: LlmRequest, text: str, calls: list[ToolCall], usage: Usage, *, stop: str | None, model: str
) -> Completion:
    """The completion; where a schema was asked for, the call of its tool is the answer and no call of a tool."""
    reason = _STOP_REASONS.get(stop or "end_turn", "stop")
    answer = next((call for call in calls if answers(request, call.name)), None)
    if answer is not None and request.schema is not None:
        calls = [call for call in calls if call is not answer]
        text = unwrap(answer.arguments) if prepare(request.schema).wrapped else answer.arguments
        reason = "stop" if reason == "tool_calls" and not calls else reason
    return Completion(text, tuple(calls), usage, reason, model)


def neutral_usage(given: WireUsage) -> Usage:
    """The vendor's count in our words: its input excludes what was read from or written to the cache, ours does not."""
    cached = given.cache_read_input_tokens or 0
    written = given.cache_creation_input_tokens or 0
    writes = given.cache_creation
    return Usage(
        (given.input_tokens or 0) + cached + written,
        given.output_tokens or 0,
        cached,
        cache_write_tokens=written,
        cache_write_long_tokens=(writes.ephemeral_1h_input_tokens or 0) if writes is not None else 0,
    )
