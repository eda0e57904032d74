"""The body of a response as a neutral completion."""

from typing import Annotated

import msgspec
from msgspec import Meta

from tollway.domain.errors import LlmError
from tollway.domain.llm import Completion, LlmRequest, ToolCall, Usage
from tollway.llm.providers.openai.response import answer_text
from tollway.llm.providers.wire import estimated, shorten, unreadable

Tokens = Annotated[int, Meta(ge=0, le=1_000_000_000)]
_INCOMPLETE = {"max_output_tokens": "length", "content_filter": "content_filter"}
THROTTLED = "rate_limit_exceeded"


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: Tokens | None = None
    cache_write_tokens: Tokens | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: Tokens | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: Tokens
    output_tokens: Tokens
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""
    refusal: str = ""


class Item(msgspec.Struct):
    """One item of the output: a message, a call of a function, reasoning, or one we do not read."""

    type: str
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    call_id: str = ""
    id: str | None = None
    name: str = ""
    arguments: str = ""


class _Details(msgspec.Struct, gc=False):
    reason: str = ""


class _Error(msgspec.Struct, gc=False):
    code: str | None = None
    message: str | None = None


class Response(msgspec.Struct):
    """The whole answer, as the body of a plain call and in the last event of a stream."""

    output: list[Item]
    status: str = "completed"
    model: str = ""
    incomplete_details: _Details | None = None
    error: _Error | None = None
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(Response).decode


def decode(body: bytes, request: LlmRequest) -> Completion:
    """The completion. Raises LlmError `bad_response`, and the vendor's own error."""
    try:
        given = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from None
    return completion_of(given, request)


def completion_of(given: Response, request: LlmRequest) -> Completion:
    """The completion. Raises LlmError for a response that failed."""
    if given.status == "failed":
        raise _failed(given.error)
    parts = [part for item in given.output if item.type == "message" for part in item.content or ()]
    refusal = "".join(part.refusal for part in parts)
    text = "".join(part.text for part in parts) or refusal
    calls = tuple(
        ToolCall(item.call_id or item.id or "", item.name, item.arguments)
        for item in given.output
        if item.type == "function_call"
    )
    thought = "".join(_thought(item) for item in given.output if item.type == "reasoning")
    if given.usage is not None:
        usage = neutral_usage(given.usage)
    else:
        usage = estimated(request, len(text) + len(thought) + sum(len(call.arguments) for call in calls))
    return Completion(
        answer_text(text, request), calls, usage, _reason(given, bool(refusal), bool(calls)), given.model, thought
    )


def _failed(error: _Error | None) -> LlmError:
    """The vendor's own error in an answer that began well; it may be billed."""
    said = shorten((error.message if error is not None else None) or "no reason given")
    code = "rate_limited" if error is not None and error.code == THROTTLED else "provider_5xx"
    return LlmError(code, f"the provider broke off: {said}").charged()


def neutral_usage(given: _Usage) -> Usage:
    """The vendor's count in our words."""
    inputs, outputs = given.input_tokens_details, given.output_tokens_details
    return Usage(
        given.input_tokens,
        given.output_tokens,
        (inputs.cached_tokens or 0) if inputs is not None else 0,
        (outputs.reasoning_tokens or 0) if outputs is not None else 0,
        cache_write_tokens=(inputs.cache_write_tokens or 0) if inputs is not None else 0,
    )


def _thought(item: Item) -> str:
    """The reasoning itself where a server tells it, else its summary."""
    return "".join(part.text for part in item.content or item.summary or ())


def _reason(given: Response, refusal: bool, calls: bool) -> str:
    if refusal:
        return "refusal"
    if given.status == "incomplete":
        return _INCOMPLETE.get(given.incomplete_details.reason if given.incomplete_details else "", "length")
    return "tool_calls" if calls else "stop"
