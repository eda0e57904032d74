"""The gateway without a network: choosing, reserving, refusing, and set-ups that could never work."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tollway.config import Price, Provider, Route
from tollway.domain.errors import ConfigError, LlmError
from tollway.domain.llm import LlmRequest
from tollway.llm import estimate
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.llm.tiers import Tiers
from tollway.spend.prices import Prices

PRICES = Prices({"p/m": Price(input_usd_per_mtok="1", output_usd_per_mtok="10")})
ASK = LlmRequest("fast", [{"role": "user", "content": "x" * 400}], 100)


def route(name: str = "one", **more: Any) -> Route:
    return Route(**{"name": name, "tier": "fast", "provider": "p", "model": "m", **more})


def gateway(provider: dict[str, Any], **options: Any) -> Gateway:
    return Gateway([route()], {"p": Provider(**provider)}, PRICES, GatewayOptions(**options))


def test_priority_then_weight() -> None:
    """Only the lowest priority number is served, and within it chance falls by weight."""
    tiers = Tiers([route("late", priority=2), route("a", weight=1), route("b", weight=3)])
    names = [tiers.pick("fast", chance).name for chance in (0.0, 0.24, 0.26, 0.99)]  # type: ignore[union-attr]
    assert names == ["a", "a", "b", "b"]
    assert tiers.pick("none", 0.5) is None


def test_reserves_the_worst_case() -> None:
    """The reservation is the estimated input and all of max_tokens at the route's price."""
    plan = gateway({"kind": "openai"}).plan(ASK)
    assert plan.input_tokens == 100 + estimate.PER_MESSAGE + estimate.PER_REQUEST
    assert plan.reserve_nano == plan.input_tokens * 1000 + 100 * 10_000


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tier": "none"}, "unknown_tier"),
        ({"messages": []}, "refused"),
        ({"messages": ["text"]}, "refused"),
        ({"max_tokens": 0}, "refused"),
        ({"extra": {"max_tokens": 10**6}}, "refused"),
        ({"messages": [{"role": "user", "content": object()}]}, "refused"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "refused"),
    ],
)
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_refused_before_anything_is_sent(kind: str, change: dict[str, Any], code: str) -> None:
    """A request that cannot be sent is a final error of `plan`, with nothing billed."""
    with pytest.raises(LlmError) as caught:
        gateway({"kind": kind}).plan(replace(ASK, **change))
    assert (caught.value.code, caught.value.final, caught.value.billed) == (code, True, False)


@pytest.mark.parametrize(
    ("provider", "key"),
    [
        ({"kind": "openai", "api": "responses"}, "providers.p.api"),
        ({"kind": "openai", "api_key_env": "K"}, "api_key_env"),
    ],
)
def test_unusable_provider(provider: dict[str, Any], key: str) -> None:
    """A provider that could never be called is refused at construction, by key."""
    with pytest.raises(ConfigError, match=key):
        gateway(provider, environ={})


def test_keys_become_headers() -> None:
    """The key goes into the vendor's header; without one there is no such header."""
    openai = gateway({"kind": "openai", "api_key_env": "K"}, environ={"K": " secret\n"}).plan(ASK).served.wire
    anthropic = gateway({"kind": "anthropic", "api_key_env": "K"}, environ={"K": "secret"}).plan(ASK).served.wire
    assert openai.headers == {"authorization": "Bearer secret"}
    assert (anthropic.headers["x-api-key"], "anthropic-version" in anthropic.headers) == ("secret", True)
    assert gateway({"kind": "openai"}).plan(ASK).served.wire.headers == {}


@pytest.mark.parametrize(
    ("kind", "base_url", "url"),
    [
        ("openai", "http://h/v1/", "http://h/v1/chat/completions"),
        ("anthropic", "http://h", "http://h/v1/messages"),
        ("anthropic", "http://h/v1", "http://h/v1/messages"),
        ("anthropic", "", "https://api.anthropic.com/v1/messages"),
    ],
)
def test_addresses(kind: str, base_url: str, url: str) -> None:
    """Base addresses are taken as the vendors' SDKs take them, tolerantly."""
    assert gateway({"kind": kind, "base_url": base_url}).plan(ASK).served.wire.url == url


def test_output_limit_by_host() -> None:
    """OpenAI itself is told max_completion_tokens, a compatible server max_tokens."""
    ours = msgspec.json.decode(gateway({"kind": "openai"}).plan(ASK).body)
    theirs = msgspec.json.decode(gateway({"kind": "openai", "base_url": "http://h/v1"}).plan(ASK).body)
    assert (ours["max_completion_tokens"], theirs["max_tokens"]) == (100, 100)
    assert "max_tokens" not in ours
    assert "max_completion_tokens" not in theirs


@pytest.mark.parametrize("url", ["http://[::1", "http://host:99999/v1", "http://ü.example/v1"])
def test_base_url_that_cannot_be_asked(url: str) -> None:
    """A base URL that no request can be made of is refused at start, by the name of its setting."""
    with pytest.raises(ConfigError, match=r"providers\.p\.base_url"):
        gateway({"kind": "openai", "base_url": url})


def test_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of another sort than HTTP is refused at start, by the name of its variable."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.test:1080")
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        gateway({"kind": "openai", "base_url": "https://provider.test/v1"})
