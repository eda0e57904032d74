"""POST /embeddings: texts as vectors, one each, in their order."""

import base64
import binascii
import sys
from array import array
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tollway.domain.llm import Completion, LlmRequest
from tollway.llm.providers.openai.response import WireUsage, neutral_usage
from tollway.llm.providers.wire import check_extra, estimated, passes, resent, to_json, unreadable

FORM = "openai.embeddings"
_RESERVED = frozenset(("model", "input", "encoding_format"))


class _Vector(msgspec.Struct, gc=False):
    embedding: list[float] | str
    index: int = 0


class _Body(msgspec.Struct):
    data: Annotated[list[_Vector], Meta(min_length=1)]
    model: str = ""
    usage: WireUsage | None = None


_decode = msgspec.json.Decoder(_Body).decode


def encode(request: LlmRequest, model: str) -> bytes:
    """The body. Raises LlmError for extra fields that are ours to set."""
    if passes(request, FORM):
        return resent(request, {"model": model}, frozenset())
    check_extra(request.extra, _RESERVED)
    body: dict[str, Any] = {"model": model, "input": request.inputs, "encoding_format": "float"}
    return to_json({**request.extra, **body})


def decode(body: bytes, request: LlmRequest) -> Completion:
    """The vectors. Raises LlmError `bad_response`, also where there are not as many as there were inputs."""
    try:
        given = _decode(body)
        data = sorted(given.data, key=lambda one: one.index)
        vectors = tuple(_floats(one.embedding) for one in data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, binascii.Error, ValueError) as error:
        raise unreadable(error) from None
    if len(vectors) != len(request.inputs):
        raise unreadable(f"{len(vectors)} vectors for {len(request.inputs)} inputs")
    usage = neutral_usage(given.usage) if given.usage is not None else estimated(request, 0)
    return Completion("", (), usage, "stop", given.model, vectors=vectors)


def _floats(given: list[float] | str) -> tuple[float, ...]:
    """A client may have asked for base64: little-endian numbers of four bytes."""
    if not isinstance(given, str):
        return tuple(given)
    numbers = array("f", base64.b64decode(given, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return tuple(numbers)
