"""Anthropic's Messages API, and servers that speak it."""

from tollway.llm.providers.anthropic.request import encode
from tollway.llm.providers.anthropic.response import decode
from tollway.llm.providers.anthropic.stream import AnthropicStream
from tollway.llm.providers.wire import Wire

API_VERSION = "2023-06-01"


def wire(base_url: str, key: str | None) -> Wire:
    """The wire to a server; `base_url` with or without its /v1."""
    root = base_url.rstrip("/").removesuffix("/messages").removesuffix("/v1")
    headers = {"anthropic-version": API_VERSION}
    if key:
        headers["x-api-key"] = key
    return Wire(f"{root}/v1/messages", headers, encode, decode, AnthropicStream, cache_mark=b'"cache_control"')
