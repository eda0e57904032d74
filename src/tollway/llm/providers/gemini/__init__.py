"""Google's Gemini API: the model is in the address, and streams and embeddings have addresses of their own."""

from tollway.config import Provider
from tollway.llm.providers.gemini import embeddings
from tollway.llm.providers.gemini.request import FORM, encode
from tollway.llm.providers.gemini.response import decode
from tollway.llm.providers.gemini.stream import GeminiStream
from tollway.llm.providers.wire import Endpoint, Wire


def wire(provider: Provider, key: str | None) -> Wire:
    """The wire to a server whose `base_url` ends with the API's version, as /v1beta."""
    root = f"{provider.base_url.rstrip('/').removesuffix('/models')}/models/{{model}}"
    text = Endpoint(FORM, f"{root}:generateContent", encode, decode, stream_url=f"{root}:streamGenerateContent?alt=sse")
    vectors = Endpoint(embeddings.FORM, f"{root}:batchEmbedContents", embeddings.encode, embeddings.decode)
    return Wire({"x-goog-api-key": key} if key else {}, text, GeminiStream, vectors)
