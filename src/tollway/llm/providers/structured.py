"""Answers to a schema from servers that cannot be held to one: asked for in words, and freed of what is around them."""

import re
from dataclasses import replace
from typing import Any

import msgspec

from tollway.domain.llm import Completion, Delta, LlmRequest
from tollway.llm.providers.decoder import StreamDecoder

_ORDER = "Answer only with JSON that fits this JSON Schema, without any other word and without code fences:\n"
_FENCED = re.compile(r"```[a-zA-Z]*\s*\n?(.*?)(?:```|\Z)", re.DOTALL)
_SYSTEM = ("system", "developer")


def told(request: LlmRequest) -> LlmRequest:
    """The request with its schema as a system instruction instead; what the client sent is not passed on as it was."""
    order = _ORDER + msgspec.json.encode(request.schema).decode()
    return replace(request, messages=_with_order(request.messages, order), schema=None, sent=None)


def bare(completion: Completion) -> Completion:
    """The completion with nothing but the JSON in its text, as far as that can be told."""
    text = completion.text.strip()
    if not text.startswith(("{", "[", '"')):
        fenced = _FENCED.search(text)
        text = fenced.group(1).strip() if fenced is not None else text
    return completion if text == completion.text else replace(completion, text=text)


class BareStream:
    """Implements `StreamDecoder`: the pieces come as the model writes them, the answer is freed of its fences."""

    def __init__(self, inner: StreamDecoder) -> None:
        self._inner = inner

    @property
    def done(self) -> bool:
        """Whether the vendor said that the answer is whole."""
        return self._inner.done

    def feed(self, data: bytes) -> list[Delta]:
        """The pieces in these bytes."""
        return self._inner.feed(data)

    def completion(self) -> Completion:
        """The answer so far."""
        return bare(self._inner.completion())


def _with_order(messages: list[dict[str, Any]], order: str) -> list[dict[str, Any]]:
    """One system message in all: templates of small models know no second."""
    if messages and messages[0].get("role") in _SYSTEM and isinstance(messages[0].get("content"), str):
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{order}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": order}, *messages]
