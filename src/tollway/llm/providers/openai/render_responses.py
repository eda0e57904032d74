"""Answers of other vendors, and kept ones, as Responses: whole, or as the events of a stream, numbered in order."""

from collections.abc import Iterable
from typing import Any

import msgspec

from tollway.domain.llm import Completion, Delta, LlmRequest, ToolCall, Usage
from tollway.llm.providers.inbound import Fault, Stamp, event, text_of
from tollway.llm.providers.openai.inbound_parts import error_object

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ECHOED: tuple[tuple[str, bytes], ...] = (
    ("instructions", b"null"),
    ("max_output_tokens", b"null"),
    ("metadata", b"{}"),
    ("parallel_tool_calls", b"true"),
    ("reasoning", b'{"effort":null,"summary":null}'),
    ("temperature", b"1.0"),
    ("text", b'{"format":{"type":"text"}}'),
    ("tool_choice", b'"auto"'),
    ("tools", b"[]"),
    ("top_p", b"1.0"),
    ("truncation", b'"disabled"'),
)


def responses_answer(completion: Completion, request: LlmRequest, stamp: Stamp) -> bytes:
    """A `response`."""
    return msgspec.json.encode(_ended(completion, request, stamp))


def _ended(completion: Completion, request: LlmRequest, stamp: Stamp) -> dict[str, Any]:
    output: list[dict[str, Any]] = []
    if completion.reasoning:
        output.append(_reasoning(stamp, completion.reasoning))
    if completion.text or not completion.tool_calls:
        refused = completion.stop_reason == "refusal"
        output.append(_message(stamp, "completed", [_part(completion.text, refused=refused)]))
    output += [_call(stamp, index, call, "completed") for index, call in enumerate(completion.tool_calls)]
    why = _INCOMPLETE.get(completion.stop_reason)
    whole = _response(request, stamp, "incomplete" if why else "completed", output)
    whole["model"] = completion.model or request.tier
    whole["incomplete_details"] = {"reason": why} if why else None
    whole["usage"] = _usage(completion.usage)
    return whole


def _response(request: LlmRequest, stamp: Stamp, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    fields = request.sent.fields if request.sent is not None else {}
    return {
        "id": f"resp_{stamp.id}",
        "object": "response",
        "created_at": stamp.at,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": request.tier,
        "output": output,
        "previous_response_id": None,
        "store": False,
        "usage": None,
        **{name: text_of(fields, name, otherwise) for name, otherwise in _ECHOED},
    }


def _reasoning(stamp: Stamp, text: str) -> dict[str, Any]:
    return {"id": f"rs_{stamp.id}", "type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


def _message(stamp: Stamp, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": f"msg_{stamp.id}", "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str, *, refused: bool = False) -> dict[str, Any]:
    if refused:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call(stamp: Stamp, index: int, call: ToolCall, status: str) -> dict[str, Any]:
    return {
        "id": f"fc_{stamp.id}{index}",
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


class ResponsesWriter:
    """Implements `StreamWriter`. One output item is open at a time; a piece of another kind closes it."""

    def __init__(self, request: LlmRequest, stamp: Stamp) -> None:
        self._request = request
        self._stamp = stamp
        self._sequence = 0
        self._begun = False
        self._at = -1
        self._open = ""
        self._texts: list[str] = []
        self._call = ToolCall("", "", "")
        self._calls = 0
        self._written: list[str] = []

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
                events += self._close()
                self._call = ToolCall(delta.id, delta.name, "")
                events += self._open_item("call", _call(self._stamp, self._calls, self._call, "in_progress"))
                continue
            kind = {"text": "text", "reasoning": "reasoning"}.get(delta.kind, "call")
            if self._open != kind:
                events += self._close()
                events += self._open_text(kind)
            self._texts.append(delta.text)
            events.append(self._event(*self._told(delta.text)))
        return b"".join(events)

    def end(self, completion: Completion) -> bytes:
        """The end of the open item, and of the response with its usage."""
        events = [*self._begin(), *self._close()]
        if not self._written and not completion.tool_calls:
            events += [*self._open_text("text"), *self._close()]
        whole = _ended(completion, self._request, self._stamp)
        events.append(self._event(f"response.{whole['status']}", {"response": whole}))
        return b"".join(events)

    def broken(self, fault: Fault) -> bytes:
        """The `error` event."""
        told = error_object(fault)
        return self._event("error", {"code": told["code"], "message": fault.message, "param": fault.param})

    def _begin(self) -> list[bytes]:
        if self._begun:
            return []
        self._begun = True
        response = _response(self._request, self._stamp, "in_progress", [])
        return [self._event(f"response.{name}", {"response": response}) for name in ("created", "in_progress")]

    def _open_item(self, kind: str, item: dict[str, Any]) -> list[bytes]:
        self._at += 1
        self._open = kind
        self._texts = []
        self._written.append(kind)
        return [self._event("response.output_item.added", {"output_index": self._at, "item": item})]

    def _open_text(self, kind: str) -> list[bytes]:
        if kind == "reasoning":
            item = {"id": f"rs_{self._stamp.id}", "type": "reasoning", "summary": []}
            part = {"type": "summary_text", "text": ""}
            added = "response.reasoning_summary_part.added"
        else:
            item, part = _message(self._stamp, "in_progress", []), _part("")
            added = "response.content_part.added"
        return [*self._open_item(kind, item), self._event(added, {**self._place(), "part": part})]

    def _close(self) -> list[bytes]:
        kind, self._open = self._open, ""
        text = "".join(self._texts)
        if not kind:
            return []
        if kind == "call":
            call = ToolCall(self._call.id, self._call.name, text)
            item = _call(self._stamp, self._calls, call, "completed")
            told = {"item_id": item["id"], "output_index": self._at, "name": call.name, "arguments": text}
            ended = [self._event("response.function_call_arguments.done", told)]
            self._calls += 1
        elif kind == "reasoning":
            item = _reasoning(self._stamp, text)
            place = self._place("reasoning")
            ended = [
                self._event("response.reasoning_summary_text.done", {**place, "text": text}),
                self._event("response.reasoning_summary_part.done", {**place, "part": item["summary"][0]}),
            ]
        else:
            part, place = _part(text), self._place("text")
            item = _message(self._stamp, "completed", [part])
            ended = [
                self._event("response.output_text.done", {**place, "text": text, "logprobs": []}),
                self._event("response.content_part.done", {**place, "part": part}),
            ]
        return [*ended, self._event("response.output_item.done", {"output_index": self._at, "item": item})]

    def _place(self, kind: str = "") -> dict[str, Any]:
        if (kind or self._open) == "reasoning":
            return {"item_id": f"rs_{self._stamp.id}", "output_index": self._at, "summary_index": 0}
        return {"item_id": f"msg_{self._stamp.id}", "output_index": self._at, "content_index": 0}

    def _told(self, text: str) -> tuple[str, dict[str, Any]]:
        if self._open == "call":
            place = {"item_id": f"fc_{self._stamp.id}{self._calls}", "output_index": self._at}
            return "response.function_call_arguments.delta", {**place, "delta": text}
        if self._open == "reasoning":
            return "response.reasoning_summary_text.delta", {**self._place(), "delta": text}
        return "response.output_text.delta", {**self._place(), "delta": text, "logprobs": []}

    def _event(self, name: str, data: dict[str, Any]) -> bytes:
        told = event(name, {"type": name, "sequence_number": self._sequence, **data})
        self._sequence += 1
        return told
