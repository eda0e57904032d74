"""The body of generateContent, which is also each chunk of its stream, as a neutral completion."""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from tollway.domain.errors import LlmError
from tollway.domain.llm import Completion, LlmRequest, ToolCall, Usage
from tollway.llm.providers.wire import estimated, unreadable
from tollway.llm.schema import prepare, unwrap

Tokens = Annotated[int, Meta(ge=0, le=1_000_000_000)]
_STOP_REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
}
# The model wrote a call of a tool that the vendor itself could not read.
_SPOILT = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL")


class WireUsage(msgspec.Struct, gc=False, rename="camel"):
    """The vendor's count."""

    prompt_token_count: Tokens = 0
    candidates_token_count: Tokens = 0
    thoughts_token_count: Tokens = 0
    cached_content_token_count: Tokens = 0
    tool_use_prompt_token_count: Tokens = 0


class Call(msgspec.Struct):
    """A call of a function."""

    name: str
    args: Raw = Raw(b"{}")
    id: str = ""


class Part(msgspec.Struct, rename="camel"):
    """A part of an answer: text, thought, a call, or one we do not read."""

    text: str = ""
    thought: bool = False
    function_call: Call | None = None


class _Content(msgspec.Struct):
    parts: list[Part] = []


class Candidate(msgspec.Struct, rename="camel"):
    """One answer; only one is ever asked for."""

    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class Body(msgspec.Struct, rename="camel"):
    """A whole answer, or a chunk of one."""

    candidates: list[Candidate] = []
    prompt_feedback: _Feedback | None = None
    usage_metadata: WireUsage | None = None
    model_version: str = ""
    response_id: str = ""


_decode = msgspec.json.Decoder(Body).decode


def decode(body: bytes, request: LlmRequest) -> Completion:
    """The completion. Raises LlmError `bad_response`."""
    try:
        given = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from None
    answer = Gathered(request)
    answer.take(given)
    if not answer.said:
        raise unreadable("it holds no candidate")
    if not answer.ended:
        answer.finish = "STOP"
    return answer.completion()


class Gathered:
    """What the chunks of an answer told so far; a plain answer is a single one."""

    def __init__(self, request: LlmRequest) -> None:
        self._request = request
        self._text: list[str] = []
        self._thought: list[str] = []
        self._calls: list[ToolCall] = []
        self._model = ""
        self._id = ""
        self._usage: WireUsage | None = None
        self._blocked = False
        self.finish: str | None = None

    @property
    def said(self) -> bool:
        """Whether there is an answer, be it that there will be none."""
        return self.finish is not None or self._blocked or bool(self._text or self._thought or self._calls)

    @property
    def ended(self) -> bool:
        """Whether the vendor gave a reason for the end."""
        return self.finish is not None or self._blocked

    def take(self, chunk: Body) -> list[tuple[Part, ToolCall | None]]:
        """Add a chunk; its parts, each with the call it makes. Raises LlmError for a call the vendor could not read."""
        self._model = chunk.model_version or self._model
        self._id = chunk.response_id or self._id
        self._usage = chunk.usage_metadata or self._usage
        self._blocked = self._blocked or bool(chunk.prompt_feedback and chunk.prompt_feedback.block_reason)
        parts = []
        for candidate in chunk.candidates[:1]:
            self.finish = candidate.finish_reason or self.finish
            parts = [(part, self._add(part)) for part in (candidate.content.parts if candidate.content else ())]
        if self.finish in _SPOILT:
            usage = neutral_usage(self._usage) if self._usage is not None else None
            raise LlmError("bad_response", f"the model spoilt its call of a tool: {self.finish}").charged(usage)
        return parts

    def completion(self) -> Completion:
        """The answer so far."""
        text, thought = "".join(self._text), "".join(self._thought)
        chars = len(text) + len(thought) + sum(len(call.arguments) for call in self._calls)
        usage = estimated(self._request, chars)
        if self._usage is not None:
            usage = neutral_usage(self._usage, 0 if self.ended else (chars + 3) // 4, estimated=not self.ended)
        schema = self._request.schema
        if schema is not None and text and prepare(schema).wrapped:
            text = unwrap(text)
        return Completion(text, tuple(self._calls), usage, self._reason(), self._model, thought)

    def _reason(self) -> str:
        if self._blocked and self.finish is None:
            return "refusal"
        reason = _STOP_REASONS.get(self.finish or "STOP", "stop")
        return "tool_calls" if self._calls and reason == "stop" else reason

    def _add(self, part: Part) -> ToolCall | None:
        called = part.function_call
        if called is None:
            (self._thought if part.thought else self._text).append(part.text)
            return None
        # Older models number no calls; the answer's own id makes them unique in a conversation.
        name = called.id or f"{self._id or 'call'}-{len(self._calls)}"
        call = ToolCall(name, called.name, bytes(called.args).decode())
        self._calls.append(call)
        return call


def neutral_usage(given: WireUsage, output_least: int = 0, *, estimated: bool = False) -> Usage:
    """The vendor's count in our words: it counts thoughts apart from the answer, and cached input within the prompt."""
    return Usage(
        given.prompt_token_count + given.tool_use_prompt_token_count,
        max(output_least, given.candidates_token_count + given.thoughts_token_count),
        given.cached_content_token_count,
        given.thoughts_token_count,
        estimated,
    )
