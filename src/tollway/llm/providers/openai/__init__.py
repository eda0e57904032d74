"""OpenAI's chat completions, and every server that speaks them. What differs between servers is data: QUIRKS."""

from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from tollway.llm.providers.openai.request import encode
from tollway.llm.providers.openai.response import decode
from tollway.llm.providers.openai.stream import OpenAiStream
from tollway.llm.providers.wire import Wire


@dataclass(frozen=True, slots=True)
class Quirks:
    """How a server differs: the field that bounds the output, and the header that carries the key."""

    max_tokens_field: str = "max_tokens"
    key_header: str = "authorization"
    key_prefix: str = "Bearer "


# By the end of the host's name. Only OpenAI itself wants `max_completion_tokens` (its reasoning models refuse the older
# field); compatible servers all know `max_tokens`, and many nothing else.
QUIRKS: tuple[tuple[str, Quirks], ...] = (
    ("api.openai.com", Quirks(max_tokens_field="max_completion_tokens")),
    (".openai.azure.com", Quirks(max_tokens_field="max_completion_tokens", key_header="api-key", key_prefix="")),
    ("", Quirks()),
)


def wire(base_url: str, key: str | None) -> Wire:
    """The wire to a server whose `base_url` ends where the vendor's SDK ends it: usually with /v1."""
    host = urlsplit(base_url).hostname or ""
    quirks = next(quirks for suffix, quirks in QUIRKS if host.endswith(suffix))
    return Wire(
        url=base_url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions",
        headers={quirks.key_header: quirks.key_prefix + key} if key else {},
        encode=partial(encode, quirks.max_tokens_field),
        decode=decode,
        stream=OpenAiStream,
    )
