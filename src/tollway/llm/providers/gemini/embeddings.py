"""batchEmbedContents: texts as vectors, one each, in their order. The vendor seldom counts their tokens."""

from typing import Annotated

import msgspec
from msgspec import Meta

from tollway.domain.llm import Completion, LlmRequest, Usage
from tollway.llm.providers.gemini.response import WireUsage
from tollway.llm.providers.wire import check_extra, estimated, refused, to_json, unreadable

FORM = "gemini.embeddings"
_RESERVED = frozenset(("model", "content"))


class _Vector(msgspec.Struct, gc=False):
    values: list[float]


class _Body(msgspec.Struct, rename="camel"):
    embeddings: Annotated[list[_Vector], Meta(min_length=1)]
    usage_metadata: WireUsage | None = None


_decode = msgspec.json.Decoder(_Body).decode


def encode(request: LlmRequest, model: str) -> bytes:
    """The body. Raises LlmError for extra fields that are ours to set; the others go with each text."""
    if request.ready_tokens:
        raise refused("the input is tokens, which mean another text to every model; send texts")
    check_extra(request.extra, _RESERVED)
    asked = [
        {**request.extra, "model": f"models/{model}", "content": {"parts": [{"text": text}]}} for text in request.inputs
    ]
    return to_json({"requests": asked})


def decode(body: bytes, request: LlmRequest) -> Completion:
    """The vectors. Raises LlmError `bad_response`, also where there are not as many as there were inputs."""
    try:
        given = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from None
    vectors = tuple(tuple(one.values) for one in given.embeddings)
    if len(vectors) != len(request.inputs):
        raise unreadable(f"{len(vectors)} vectors for {len(request.inputs)} inputs")
    counted = given.usage_metadata
    usage = Usage(counted.prompt_token_count) if counted is not None else estimated(request, 0)
    return Completion("", (), usage, "stop", "", vectors=vectors)
