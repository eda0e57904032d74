"""Calls by way of litellm, against the simulated provider. Runs where the extra `litellm` is installed."""

import importlib.util
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from llm_kit import ASK, plan_on_first, until
from tollway.config import Price, Provider, Route
from tollway.domain.errors import ConfigError, LlmError
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.simulator.provider import RunningSim, start_provider_sim
from tollway.spend.prices import Prices

INSTALLED = importlib.util.find_spec("litellm") is not None
needs_it = pytest.mark.skipif(not INSTALLED, reason="the extra `litellm` is not installed")
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}  # fmt: skip


def gateway_to(url: str, model: str, options: GatewayOptions | None = None) -> Gateway:
    provider = Provider(kind="litellm", base_url=url, api_key_env="K")
    route = Route(name="one", tier="fast", provider="sim", model=model)
    prices = Prices({f"sim/{model}": Price(input_usd_per_mtok="0.15", output_usd_per_mtok="0.60")})
    return Gateway([route], {"sim": provider}, prices, options or GatewayOptions(environ={"K": "key"}))


@pytest.fixture(params=["openai", "anthropic"])
def vendor(request: pytest.FixtureRequest) -> str:
    """A vendor as the library names it."""
    return str(request.param)


@asynccontextmanager
async def running(
    vendor: str, options: GatewayOptions | None = None, **config: Any
) -> AsyncIterator[tuple[Gateway, RunningSim]]:
    sim = await start_provider_sim({"latency_s": 0.0, **config})
    gateway = gateway_to(sim.url + ("/v1" if vendor == "openai" else ""), f"{vendor}/m", options)
    await gateway.start()
    try:
        yield gateway, sim
    finally:
        await gateway.stop()
        await sim.stop()


@pytest.mark.skipif(INSTALLED, reason="the extra `litellm` is installed")
def test_without_the_extra() -> None:
    """A provider of this kind without its extra is a configuration error that says what to install."""
    with pytest.raises(ConfigError, match=r"tollway\[litellm\]"):
        gateway_to("http://h", "cohere/m")


@needs_it
async def test_whole_and_streamed(vendor: str) -> None:
    """Text, exact usage and money are the provider's own, whole and streamed; the call id goes with the request."""
    async with running(vendor, output_tokens=20) as (gateway, sim):
        whole = await gateway.execute(plan_on_first(gateway, ASK), "c1", 20)
        stream = gateway.stream(plan_on_first(gateway, replace(ASK, stream=True)), "c2", 20)
        pieces = [piece async for piece in stream]
        assert "".join(pieces) == stream.result.completion.text == whole.completion.text
        for result, row in zip((whole, stream.result), sim.ledger.rows(), strict=True):
            usage = result.completion.usage
            assert (usage.input_tokens, usage.output_tokens) == (row.input_tokens, row.output_tokens)
            assert (usage.estimated, result.cost_nano) == (False, row.cost_nano)
        assert [row.call_id for row in sim.ledger.rows()] == ["c1", "c2"]


@needs_it
async def test_tools_and_schema(vendor: str) -> None:
    """A forced tool is called, and an answer fits its schema."""
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
    async with running(vendor) as (gateway, _):
        asked = replace(ASK, tools=[WEATHER], tool_choice="required")
        (call,) = (await gateway.execute(plan_on_first(gateway, asked), "c", 20)).completion.tool_calls
        assert (call.name, list(json.loads(call.arguments))) == ("weather", ["city"])
        answer = await gateway.execute(plan_on_first(gateway, replace(ASK, schema=schema)), "c", 20)
        assert list(json.loads(answer.completion.text)) == ["sure"]


@needs_it
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("fault", "codes"),
    [("status_429", {"rate_limited"}), ("status_500", {"provider_5xx", "bad_response"}),
     ("garbage", {"provider_5xx", "bad_response"}), ("cut", {"provider_5xx", "bad_response"})],
)  # fmt: skip
async def test_faults(vendor: str, fault: str, codes: set[str], streamed: bool) -> None:
    """Each failure costs one request, whatever the library would do; what may have been billed says so."""
    async with running(vendor, fault_rates={fault: 1.0}, output_tokens=40) as (gateway, sim):
        plan = plan_on_first(gateway, replace(ASK, stream=streamed))

        async def make() -> None:
            if streamed:
                async for _ in gateway.stream(plan, "c", 20):
                    pass
            else:
                await gateway.execute(plan, "c", 20)

        with pytest.raises(LlmError) as caught:
            await make()
        assert caught.value.code in codes
        assert caught.value.billed == (fault != "status_429")
        assert sim.ledger.totals().calls == 1


@needs_it
@pytest.mark.parametrize("streamed", [False, True])
async def test_timeouts_and_leaving(vendor: str, streamed: bool) -> None:
    """The timeout that fired is told, and a call nobody waits for is ended at the provider."""
    options = GatewayOptions(first_byte_timeout_s=0.3, stream_first_byte_timeout_s=0.3, environ={"K": "key"})
    async with running(vendor, options, latency_s=10.0) as (gateway, sim):
        plan = plan_on_first(gateway, replace(ASK, stream=streamed))

        async def make(timeout_s: float) -> None:
            if streamed:
                await anext(gateway.stream(plan, "c", timeout_s))
            else:
                await gateway.execute(plan, "c", timeout_s)

        for timeout_s, code in ((20, "timeout_first_byte"), (0.1, "timeout_total")):
            with pytest.raises(LlmError) as caught:
                await make(timeout_s)
            assert (caught.value.code, caught.value.billed) == (code, True)
        await until(lambda: sim.ledger.totals().by_status == {"499": 2})


@needs_it
def test_only_known_fields_reach_the_library() -> None:
    """What a caller adds cannot redirect the call, change its key or have it tried again."""
    gateway = gateway_to("http://h", "openai/m")
    for name in ("api_base", "num_retries", "mock_response", "fallbacks", "extra_headers", "n"):
        with pytest.raises(LlmError, match=name):
            plan_on_first(gateway, replace(ASK, extra={name: 1}))
    plan_on_first(gateway, replace(ASK, extra={"seed": 1}))
