"""Anthropic's Messages API, and servers that speak it."""

from tollway.config import Provider
from tollway.llm.providers.anthropic.request import FORM, encode
from tollway.llm.providers.anthropic.response import decode
from tollway.llm.providers.anthropic.stream import AnthropicStream
from tollway.llm.providers.wire import Endpoint, Wire

API_VERSION = "2023-06-01"


def wire(provider: Provider, key: str | None) -> Wire:
    """The wire to a server; its `base_url` with or without its /v1. The vendor makes no embeddings."""
    root = provider.base_url.rstrip("/").removesuffix("/messages").removesuffix("/v1")
    headers = {"anthropic-version": API_VERSION}
    if key:
        headers["x-api-key"] = key
    text = Endpoint(FORM, f"{root}/v1/messages", encode, decode)
    return Wire(headers, text, AnthropicStream, cache_mark=b'"cache_control"')
