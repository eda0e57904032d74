"""OpenAI's embeddings as clients send them to us: `POST /v1/embeddings`, texts or their tokens in, a vector each."""

import base64
import struct
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tollway.domain.llm import Completion, Delta, LlmRequest, Sent
from tollway.llm.providers.inbound import Fault, Limits, Stamp, bad, decoded, read_fields
from tollway.llm.providers.openai import inbound_parts

FORM = "openai.embeddings"
INPUTS_MAX = 2048
Text = Annotated[str, Meta(min_length=1)]


class _Body(msgspec.Struct):
    model: Text
    input: str | list[str | int | list[int]]
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None


_body = msgspec.json.Decoder(_Body).decode


class InboundEmbeddings:
    """Implements `Inbound`; there are no streams of embeddings."""

    form = FORM

    def read(self, body: bytes, limits: Limits) -> LlmRequest:
        """The request. Raises Problem."""
        given = decoded(_body, body)
        inputs = given.input if isinstance(given.input, list) and not _tokens(given.input) else [given.input]
        if not 1 <= len(inputs) <= INPUTS_MAX:
            raise bad("input", f"must hold 1 to {INPUTS_MAX} texts, not {len(inputs)}")
        for index, one in enumerate(inputs):
            place = f"input[{index}]" if inputs is given.input else "input"
            if isinstance(one, int):
                raise bad(place, "is a token among texts; send texts, or a list of tokens for each")
            if not one:
                raise bad(place, "is empty")
        texts = tuple(one if isinstance(one, str) else "" for one in inputs)
        tokens = sum(len(one) for one in inputs if isinstance(one, list))
        return LlmRequest(given.model, [], 0, inputs=texts, ready_tokens=tokens, sent=Sent(FORM, read_fields(body)))

    def answer(self, completion: Completion, request: LlmRequest, stamp: Stamp) -> bytes:
        """A list of embeddings, as numbers or, where it was asked for, as base64 of 32-bit floats."""
        packed = request.sent is not None and bytes(request.sent.fields.get("encoding_format", b"")) == b'"base64"'
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
            for index, vector in enumerate(completion.vectors)
        ]
        tokens = completion.usage.input_tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        whole = {"object": "list", "data": data, "model": completion.model or request.tier, "usage": usage}
        return msgspec.json.encode(whole)

    def stream(self, request: LlmRequest, stamp: Stamp) -> "_NoStream":
        """Never asked for, for no request of this form is streamed."""
        return _NoStream()

    def error(self, fault: Fault) -> bytes:
        """An error object."""
        return inbound_parts.error(fault)


def _tokens(given: list[str | int | list[int]]) -> bool:
    """Whether it is one input, as the tokens of its text."""
    return bool(given) and all(isinstance(one, int) for one in given)


class _NoStream:
    def passed(self, chunk: bytes) -> bytes:
        return chunk

    def rest(self) -> bytes:
        return b""

    def deltas(self, deltas: Iterable[Delta]) -> bytes:
        return b""

    def end(self, completion: Completion) -> bytes:
        return b""

    def broken(self, fault: Fault) -> bytes:
        return inbound_parts.error(fault)


def _packed(vector: Iterable[float]) -> Any:
    values = tuple(vector)
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
