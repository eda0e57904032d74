"""The gateway without a network: choosing, reserving, refusing, and set-ups that could never work."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from llm_kit import plan_on_first
from tollway.config import Price, Provider, Route
from tollway.domain.errors import ConfigError, LlmError
from tollway.domain.llm import Completion, LlmRequest, Usage
from tollway.llm import estimate
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.spend.prices import Prices

PRICES = Prices({"p/m": Price(input_usd_per_mtok="1", output_usd_per_mtok="10")})
ASK = LlmRequest("fast", [{"role": "user", "content": "x" * 400}], 100)


def route(name: str = "one", **more: Any) -> Route:
    return Route(**{"name": name, "tier": "fast", "provider": "p", "model": "m", **more})


def gateway(provider: dict[str, Any], **options: Any) -> Gateway:
    return Gateway([route()], {"p": Provider(**provider)}, PRICES, GatewayOptions(**options))


def test_reserves_the_worst_case() -> None:
    """The reservation is the estimated input and all of max_tokens at the route's price."""
    made = plan_on_first(gateway({"kind": "openai"}), ASK)
    assert made.input_tokens == 100 + estimate.PER_MESSAGE + estimate.PER_REQUEST
    assert made.reserve_nano == made.input_tokens * 1000 + 100 * 10_000


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"extra": {"max_tokens": 10**6}}, "refused"),
        ({"messages": [{"role": "user", "content": object()}]}, "refused"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "refused"),
    ],
)
@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini"])
def test_refused_before_anything_is_sent(kind: str, change: dict[str, Any], code: str) -> None:
    """A request that cannot be sent is a final error of `plan`, with nothing billed."""
    with pytest.raises(LlmError) as caught:
        plan_on_first(gateway({"kind": kind}), replace(ASK, **change))
    assert (caught.value.code, caught.value.final, caught.value.billed) == (code, True, False)


@pytest.mark.parametrize(
    ("provider", "key"),
    [
        ({"kind": "openai", "api_key_env": "K"}, "api_key_env"),
        ({"kind": "gemini", "base_url": "http://[::1"}, "providers.p.base_url"),
    ],
)
def test_unusable_provider(provider: dict[str, Any], key: str) -> None:
    """A provider that could never be called is refused at construction, by key."""
    with pytest.raises(ConfigError, match=key):
        gateway(provider, environ={})


def test_keys_become_headers() -> None:
    """The key goes into the vendor's header; without one there is no such header."""
    openai = plan_on_first(gateway({"kind": "openai", "api_key_env": "K"}, environ={"K": " secret\n"}), ASK).served.wire
    anthropic = plan_on_first(
        gateway({"kind": "anthropic", "api_key_env": "K"}, environ={"K": "secret"}), ASK
    ).served.wire
    assert openai.headers == {"authorization": "Bearer secret"}
    assert (anthropic.headers["x-api-key"], "anthropic-version" in anthropic.headers) == ("secret", True)
    assert plan_on_first(gateway({"kind": "openai"}), ASK).served.wire.headers == {}


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
    assert plan_on_first(gateway({"kind": kind, "base_url": base_url}), ASK).served.wire.url == url


def test_output_limit_by_host() -> None:
    """OpenAI itself is told max_completion_tokens, a compatible server max_tokens."""
    ours = msgspec.json.decode(plan_on_first(gateway({"kind": "openai"}), ASK).body)
    theirs = msgspec.json.decode(plan_on_first(gateway({"kind": "openai", "base_url": "http://h/v1"}), ASK).body)
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


def test_a_known_models_window_is_known() -> None:
    """The bundled list tells a model's context window, unless the route or a price of one's own says otherwise."""

    def window(prices: Prices, **more: Any) -> int | None:
        made = Gateway(
            [route(model="gpt-4o-mini", **more)], {"p": Provider(kind="openai")}, prices, GatewayOptions(environ={})
        )
        return made.tiers.groups("fast")[0].routes[0].context_tokens

    own = Prices({"p/gpt-4o-mini": Price(input_usd_per_mtok="1", output_usd_per_mtok="10")})
    assert window(Prices({})) == 128_000
    assert window(Prices({}), context_tokens=4000) == 4000
    assert window(own) is None


class Noon:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC).timestamp()

    def now(self) -> float:
        """The moment it was moved to."""
        return self.at

    def monotonic(self) -> float:
        """The same."""
        return self.at


def test_a_call_settles_at_the_price_it_was_planned_with() -> None:
    """A price that changes while a call is under way is the next call's: reservation, version and settlement agree."""
    days = [
        Price.model_validate({"input_usd_per_mtok": n, "output_usd_per_mtok": n, "from": day})
        for n, day in ((1, "2026-01-01"), (3, "2026-12-01"))
    ]
    clock = Noon()
    made = Gateway(
        [route()], {"p": Provider(kind="openai")}, Prices({"p/m": days}), GatewayOptions(clock=clock, environ={})
    )
    before = plan_on_first(made, ASK)
    clock.at += 60
    after = plan_on_first(made, ASK)
    answer = Completion("", (), Usage(1000, 1000), "stop", "m")
    costs = [(plan.price.version, plan.priced(answer, 0.0).cost_nano) for plan in (before, after)]
    assert costs == [("config@2026-01-01", 2_000_000), ("config@2026-12-01", 6_000_000)]
    assert after.reserve_nano == 3 * before.reserve_nano


def test_a_model_in_the_answer_changes_no_price() -> None:
    """A vendor that says it used another model, as of a dated name, is paid for the one that was asked for."""
    plan = plan_on_first(gateway({"kind": "openai"}), ASK)
    answer = Completion("", (), Usage(1000, 1000), "stop", "some-other-model")
    assert plan.priced(answer, 0.0).cost_nano == 1_000_000 + 10_000_000
