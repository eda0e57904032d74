"""The body of a chat completion as a neutral one."""

from typing import Annotated

import msgspec
from msgspec import Meta

from tollway.domain.llm import Completion, LlmRequest, ToolCall, Usage
from tollway.llm.providers.wire import estimated, unreadable
from tollway.llm.schema import prepare, unwrap

Tokens = Annotated[int, Meta(ge=0, le=1_000_000_000)]
STOP_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: Tokens | None = None
    cache_write_tokens: Tokens | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: Tokens | None = None


class WireUsage(msgspec.Struct, gc=False):
    """The vendor's count."""

    prompt_tokens: Tokens
    completion_tokens: Tokens = 0
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Function(msgspec.Struct, gc=False):
    name: str
    arguments: str = ""


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Body(msgspec.Struct):
    choices: Annotated[list[_Choice], Meta(min_length=1)]
    model: str = ""
    usage: WireUsage | None = None


_decode = msgspec.json.Decoder(_Body).decode


def decode(body: bytes, request: LlmRequest) -> Completion:
    """The completion. Raises LlmError `bad_response`."""
    try:
        given = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from None
    choice = given.choices[0]
    message = choice.message
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    text = message.content or message.refusal or ""
    usage = neutral_usage(given.usage) if given.usage is not None else estimated(request, len(text))
    return Completion(
        text=answer_text(text, request),
        tool_calls=calls,
        usage=usage,
        stop_reason=stop_reason(choice.finish_reason, bool(message.refusal), bool(calls)),
        model=given.model,
        reasoning=message.reasoning_content or message.reasoning or "",
    )


def stop_reason(given: str | None, refusal: bool, calls: bool) -> str:
    """The neutral word. Servers that leave it out, or end forced tool calls with `stop`, are put right."""
    if refusal:
        return "refusal"
    reason = STOP_REASONS.get(given or "stop", "stop")
    return "tool_calls" if calls and reason == "stop" else reason


def answer_text(text: str, request: LlmRequest) -> str:
    """The text as the caller's schema describes it."""
    if request.schema is not None and text and prepare(request.schema).wrapped:
        return unwrap(text)
    return text


def neutral_usage(given: WireUsage) -> Usage:
    """The vendor's count in our words: its prompt tokens include the cached ones already."""
    inputs, outputs = given.prompt_tokens_details, given.completion_tokens_details
    return Usage(
        given.prompt_tokens,
        given.completion_tokens,
        (inputs.cached_tokens or 0) if inputs is not None else 0,
        (outputs.reasoning_tokens or 0) if outputs is not None else 0,
        cache_write_tokens=(inputs.cache_write_tokens or 0) if inputs is not None else 0,
    )
