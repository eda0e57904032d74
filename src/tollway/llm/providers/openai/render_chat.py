"""Answers of other vendors, and kept ones, as chat completions: whole, or as the chunks of a stream."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from tollway.domain.llm import Completion, Delta, LlmRequest, Usage
from tollway.llm.providers.inbound import Fault, Stamp
from tollway.llm.providers.openai.inbound_parts import error_object

_FINISH = {"refusal": "stop"}
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_BREAK = re.compile(rb"\r?\n\r?\n")
_DONE = b"data: [DONE]\n\n"


def chat_answer(completion: Completion, request: LlmRequest, stamp: Stamp) -> bytes:
    """A `chat.completion`."""
    refused = completion.stop_reason == "refusal"
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if refused or (completion.tool_calls and not completion.text) else completion.text,
        "refusal": completion.text if refused else None,
    }
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if completion.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in completion.tool_calls
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(completion)}
    return msgspec.json.encode(
        {
            "id": f"chatcmpl-{stamp.id}",
            "object": "chat.completion",
            "created": stamp.at,
            "model": completion.model or request.tier,
            "choices": [choice],
            "usage": chat_usage(completion.usage),
        }
    )


def finish_reason(completion: Completion) -> str:
    """Why the answer ended, in this wire's word."""
    return _FINISH.get(completion.stop_reason, completion.stop_reason)


def chat_usage(usage: Usage) -> dict[str, Any]:
    """The count in this wire's words."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


class ChatWriter:
    """Implements `StreamWriter`. `usage`: the client asked for the chunk that tells it."""

    def __init__(self, request: LlmRequest, stamp: Stamp, *, usage: bool) -> None:
        self._head = {
            "id": f"chatcmpl-{stamp.id}",
            "object": "chat.completion.chunk",
            "created": stamp.at,
            "model": request.tier,
        }
        self._usage = usage
        self._begun = False
        self._rest = b""

    def passed(self, chunk: bytes) -> bytes:
        """The vendor's bytes; whole events only, and none that tells a usage nobody but us asked for."""
        if self._usage:
            return chunk
        data = self._rest + chunk if self._rest else chunk
        if data.endswith(b"\n\n") and not _USAGE.search(data):
            self._rest = b""
            return data
        kept, at = [], 0
        for found in _BREAK.finditer(data):
            event = data[at : found.end()]
            at = found.end()
            if not (_USAGE.search(event) and _NO_CHOICES.search(event)):
                kept.append(event)
        self._rest = data[at:]
        return b"".join(kept)

    def rest(self) -> bytes:
        """What the vendor left without an end."""
        rest, self._rest = self._rest, b""
        return rest

    def deltas(self, deltas: Iterable[Delta]) -> bytes:
        """A chunk for each piece."""
        chunks = [] if self._begun else [self._chunk({"role": "assistant", "content": ""})]
        self._begun = True
        for delta in deltas:
            if delta.kind == "text":
                chunks.append(self._chunk({"content": delta.text}))
            elif delta.kind == "reasoning":
                chunks.append(self._chunk({"reasoning_content": delta.text}))
            elif delta.kind == "tool":
                function = {"name": delta.name, "arguments": ""}
                call = {"index": delta.index, "id": delta.id, "type": "function", "function": function}
                chunks.append(self._chunk({"tool_calls": [call]}))
            else:
                call = {"index": delta.index, "function": {"arguments": delta.text}}
                chunks.append(self._chunk({"tool_calls": [call]}))
        return b"".join(chunks)

    def end(self, completion: Completion) -> bytes:
        """The finish reason, the usage if it was asked for, and `[DONE]`."""
        parts = [self.deltas(())] if not self._begun else []
        parts.append(self._chunk({}, finish_reason(completion)))
        if self._usage:
            told = {**self._head, "choices": [], "usage": chat_usage(completion.usage)}
            parts.append(b"data: %b\n\n" % msgspec.json.encode(told))
        return b"".join((*parts, _DONE))

    def broken(self, fault: Fault) -> bytes:
        """An error in place of a chunk; SDKs raise it."""
        return b"data: %b\n\n" % msgspec.json.encode({"error": error_object(fault)})

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: %b\n\n" % msgspec.json.encode({**self._head, "choices": [choice]})
