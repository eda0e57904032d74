"""OpenAI's chat completions, responses and embeddings, and every server that speaks them.

What differs between servers is data: QUIRKS.
"""

from dataclasses import dataclass
from functools import partial
from urllib.parse import quote, urlsplit

from tollway.config import Provider
from tollway.llm.providers.openai import embeddings, responses
from tollway.llm.providers.openai.request import FORM, encode
from tollway.llm.providers.openai.response import decode
from tollway.llm.providers.openai.stream import OpenAiStream
from tollway.llm.providers.wire import Endpoint, Wire


@dataclass(frozen=True, slots=True)
class Quirks:
    """How a server differs: the field that bounds the output, and the header that carries the key."""

    max_tokens_field: str = "max_tokens"
    key_header: str = "authorization"
    key_prefix: str = "Bearer "


AZURE = Quirks(max_tokens_field="max_completion_tokens", key_header="api-key", key_prefix="")

# By the end of the host's name. Only OpenAI itself wants `max_completion_tokens` (its reasoning models refuse the older
# field); compatible servers all know `max_tokens`, and many nothing else.
QUIRKS: tuple[tuple[str, Quirks], ...] = (
    ("api.openai.com", Quirks(max_tokens_field="max_completion_tokens")),
    (".openai.azure.com", AZURE),
    (".cognitiveservices.azure.com", AZURE),
    (".services.ai.azure.com", AZURE),
    ("", Quirks()),
)
_OPERATIONS = ("/chat/completions", "/responses", "/embeddings")


def wire(provider: Provider, key: str | None) -> Wire:
    """The wire to a server whose `base_url` ends where the vendor's SDK ends it: usually with /v1.

    Azure's, told by its host or by `api_version`, may end with a deployment, as `/openai/deployments/{model}`.
    """
    host = urlsplit(provider.base_url).hostname or ""
    quirks = AZURE if provider.api_version else next(quirks for end, quirks in QUIRKS if host.endswith(end))
    base = provider.base_url.rstrip("/")
    for operation in _OPERATIONS:
        base = base.removesuffix(operation)
    query = f"?api-version={quote(provider.api_version, safe='')}" if provider.api_version else ""
    headers = {quirks.key_header: quirks.key_prefix + key} if key else {}
    vectors = Endpoint(embeddings.FORM, f"{base}/embeddings{query}", embeddings.encode, embeddings.decode)
    if provider.api == "responses":
        answers = Endpoint(responses.FORM, f"{base}/responses{query}", responses.encode, responses.decode)
        return Wire(headers, answers, responses.ResponsesStream, vectors)
    chat = Endpoint(FORM, f"{base}/chat/completions{query}", partial(encode, quirks.max_tokens_field), decode)
    return Wire(headers, chat, OpenAiStream, vectors)
