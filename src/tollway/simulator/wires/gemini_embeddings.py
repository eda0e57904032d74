"""The Gemini embeddings wire: `POST /v1beta/models/{model}:batchEmbedContents`."""

import msgspec

from tollway.simulator.neutral import Answer, Ask, BadAsk
from tollway.simulator.wires.gemini import GeminiForm, read
from tollway.simulator.wires.vectors import vector

_json = msgspec.json.encode


class _Part(msgspec.Struct):
    text: str


class _Content(msgspec.Struct):
    parts: list[_Part]


class _Request(msgspec.Struct, rename="camel"):
    model: str
    content: _Content
    output_dimensionality: int | None = None


class _Body(msgspec.Struct):
    requests: list[_Request]


_decode = msgspec.json.Decoder(_Body).decode


class GeminiEmbeddings(GeminiForm):
    """Implements `Wire`; nothing of it streams."""

    def parse(self, body: bytes) -> Ask:
        """The request in neutral form; raises BadAsk."""
        requests = read(_decode, body, self.model).requests
        if not requests:
            raise BadAsk("* BatchEmbedContentsRequest.requests: at least one request is required", model=self.model)
        for request in requests:
            if request.model != f"models/{self.model}":
                raise BadAsk("* the model of each request must be that of the path", model=self.model)
        texts = ["\n".join(part.text for part in request.content.parts) for request in requests]
        return Ask(self.model, texts, embeds=True, dimensions=requests[0].output_dimensionality, counts_output=False)

    def whole(self, ask: Ask, answer: Answer) -> bytes:
        """A list of embeddings; the vendor does not count their tokens."""
        return _json({"embeddings": [{"values": vector(text, ask.dimensions)} for text in ask.texts]})

    def opening(self, ask: Ask, answer: Answer) -> bytes:
        """Nothing."""
        return b""

    def piece(self, ask: Ask, answer: Answer, text: str) -> bytes:
        """Nothing."""
        return b""

    def closing(self, ask: Ask, answer: Answer) -> bytes:
        """Nothing."""
        return b""
