"""The OpenAI embeddings wire: `POST /v1/embeddings`."""

import base64
from array import array
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from tollway.simulator.neutral import Answer, Ask, BadAsk
from tollway.simulator.wires.openai_form import OpenAIForm, read
from tollway.simulator.wires.vectors import vector

_WHOLE = b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
_ONE = b'{"object":"embedding","index":%d,"embedding":%b}'

_json = msgspec.json.encode


class _Body(msgspec.Struct):
    model: str | UnsetType = UNSET
    input: str | list[str | int | list[int]] | UnsetType = UNSET
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


_decode = msgspec.json.Decoder(_Body).decode


class OpenAIEmbeddings(OpenAIForm):
    """Implements `Wire`; nothing of it streams."""

    def parse(self, body: bytes) -> Ask:
        """The request in neutral form; raises BadAsk."""
        given = read(_decode, body)
        model, texts = given.model, given.input
        if isinstance(model, UnsetType) or not model:
            raise BadAsk("you must provide a model parameter", field="model")
        if isinstance(texts, UnsetType) or not texts:
            raise BadAsk("'$.input' is invalid.", field="input", model=model)
        ask = Ask(model, _texts(texts), embeds=True, dimensions=given.dimensions)
        ask.packed = given.encoding_format == "base64"
        return ask

    def whole(self, ask: Ask, answer: Answer) -> bytes:
        """A list of embeddings."""
        numbers = (vector(text, ask.dimensions) for text in ask.texts)
        items = [_ONE % (at, _json(_packed(one) if ask.packed else one)) for at, one in enumerate(numbers)]
        tokens = answer.input_tokens
        return _WHOLE % (b",".join(items), _json(ask.model), tokens, tokens)

    def opening(self, ask: Ask, answer: Answer) -> bytes:
        """Nothing."""
        return b""

    def piece(self, ask: Ask, answer: Answer, text: str) -> bytes:
        """Nothing."""
        return b""

    def closing(self, ask: Ask, answer: Answer) -> bytes:
        """Nothing."""
        return b""


def _texts(given: str | list[str | int | list[int]]) -> list[str]:
    """The inputs; of one that is tokens, a text of as many."""
    if isinstance(given, str):
        return [given]
    tokens = [one for one in given if isinstance(one, int)]
    if tokens:
        return [_spelled(tokens)]
    return [one if isinstance(one, str) else _spelled(one) for one in given if not isinstance(one, int)]


def _spelled(tokens: list[int]) -> str:
    return "".join(f"{token % 10_000:4d}" for token in tokens)


def _packed(numbers: tuple[float, ...]) -> str:
    return base64.b64encode(array("f", numbers).tobytes()).decode()
