"""The vendors we can speak to: one entry each. A vendor is a folder of three small files a form, its quirks data."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from tollway.config import Provider
from tollway.domain.errors import ConfigError
from tollway.llm.providers import anthropic, gemini, litellm, openai
from tollway.llm.providers.wire import Wire

KINDS: dict[str, Callable[[Provider, str | None], Wire]] = {
    "openai": openai.wire,
    "anthropic": anthropic.wire,
    "gemini": gemini.wire,
    "litellm": litellm.wire,
}


def wire_of(name: str, provider: Provider, environ: Mapping[str, str] = os.environ) -> Wire:
    """The wire to a configured provider, its key taken from the environment. Raises ConfigError."""
    make = KINDS.get(provider.kind)
    if make is None:
        raise ConfigError(f"providers.{name}.kind", provider.kind, f"use one of {', '.join(KINDS)}")
    wire = make(provider, _key(name, provider, environ))
    return replace(wire, emulates=True) if provider.structured == "emulated" else wire


def _key(name: str, provider: Provider, environ: Mapping[str, str]) -> str | None:
    if not provider.api_key_env:
        return None
    key = environ.get(provider.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"providers.{name}.api_key_env",
            provider.api_key_env,
            "this environment variable is not set: export it, or remove the setting for a server without keys",
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"providers.{name}.api_key_env", provider.api_key_env, "its value cannot be sent in a header: check it"
        )
    return key
