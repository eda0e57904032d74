"""Answers of other vendors, and kept ones, as messages: whole, or as the events of a stream."""

from collections.abc import Iterable
from typing import Any

import msgspec

from tollway.domain.llm import Completion, Delta, LlmRequest, Usage
from tollway.llm.providers.inbound import Fault, Stamp, event

FAULT_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def messages_answer(completion: Completion, request: LlmRequest, stamp: Stamp) -> bytes:
    """A `message`."""
    content: list[dict[str, Any]] = []
    if completion.reasoning:
        content.append({"type": "thinking", "thinking": completion.reasoning, "signature": ""})
    if completion.text:
        content.append({"type": "text", "text": completion.text})
    for call in completion.tool_calls:
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call.arguments)})
    whole = _message(completion.model or request.tier, stamp, content)
    whole["stop_reason"] = stop_reason(completion)
    whole["usage"] = _usage(completion.usage)
    return msgspec.json.encode(whole)


def stop_reason(completion: Completion) -> str:
    """Why the answer ended, in this wire's word."""
    return _STOP.get(completion.stop_reason, "refusal")


def _message(model: str, stamp: Stamp, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"msg_{stamp.id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _arguments(text: str) -> Any:
    """The arguments as a value; a model that wrote none that can be read is quoted."""
    try:
        value = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {"arguments": text}
    return value if isinstance(value, dict) else {"arguments": value}


def _usage(usage: Usage) -> dict[str, Any]:
    plain = max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens)
    return {
        "input_tokens": plain,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }


class MessagesWriter:
    """Implements `StreamWriter`. One block is open at a time; a piece of another kind closes it."""

    def __init__(self, request: LlmRequest, stamp: Stamp) -> None:
        self._request = request
        self._stamp = stamp
        self._begun = False
        self._at = -1
        self._open = ""

    def passed(self, chunk: bytes) -> bytes:
        """The vendor's bytes as they are."""
        return chunk

    def rest(self) -> bytes:
        """Nothing is held back."""
        return b""

    def deltas(self, deltas: Iterable[Delta]) -> bytes:
        """The events of these pieces."""
        events = self._begin()
        for delta in deltas:
            if delta.kind == "tool":
                events += self._next("tool", {"type": "tool_use", "id": delta.id, "name": delta.name, "input": {}})
            elif delta.kind == "arguments":
                events.append(self._delta({"type": "input_json_delta", "partial_json": delta.text}))
            elif delta.kind == "reasoning":
                if self._open != "reasoning":
                    events += self._next("reasoning", {"type": "thinking", "thinking": "", "signature": ""})
                events.append(self._delta({"type": "thinking_delta", "thinking": delta.text}))
            else:
                if self._open != "text":
                    events += self._next("text", {"type": "text", "text": ""})
                events.append(self._delta({"type": "text_delta", "text": delta.text}))
        return b"".join(events)

    def end(self, completion: Completion) -> bytes:
        """The end of the open block, why the answer ended and its usage, and the end of the message."""
        ended = {"stop_reason": stop_reason(completion), "stop_sequence": None}
        told = {"type": "message_delta", "delta": ended, "usage": _usage(completion.usage)}
        events = [*self._begin(), *self._close(), event("message_delta", told)]
        return b"".join((*events, event("message_stop", {"type": "message_stop"})))

    def broken(self, fault: Fault) -> bytes:
        """The `error` event."""
        kind = FAULT_TYPES.get(fault.status, "api_error")
        return event("error", {"type": "error", "error": {"type": kind, "message": fault.message}})

    def _begin(self) -> list[bytes]:
        if self._begun:
            return []
        self._begun = True
        message = _message(self._request.tier, self._stamp, [])
        return [event("message_start", {"type": "message_start", "message": message})]

    def _next(self, kind: str, block: dict[str, Any]) -> list[bytes]:
        events = self._close()
        self._at += 1
        self._open = kind
        began = {"type": "content_block_start", "index": self._at, "content_block": block}
        return [*events, event("content_block_start", began)]

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event("content_block_delta", {"type": "content_block_delta", "index": self._at, "delta": delta})

    def _close(self) -> list[bytes]:
        if not self._open:
            return []
        self._open = ""
        return [event("content_block_stop", {"type": "content_block_stop", "index": self._at})]
