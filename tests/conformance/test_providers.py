"""One suite over every vendor's wire, against the simulated provider: what the gateway promises of each of them."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from llm_kit import plan_on_first
from tollway.config import Price, Provider, Route
from tollway.domain.errors import LlmError
from tollway.domain.llm import LlmRequest
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.llm.streams import CallStream
from tollway.llm.transport import TransportOptions
from tollway.simulator.provider import RunningSim, start_provider_sim
from tollway.spend.prices import Prices

BASE = {"openai": "{}/v1", "anthropic": "{}"}
ASK = LlmRequest("fast", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi there"}], 50)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
VERDICT = {
    "type": "object",
    "properties": {"label": {"enum": ["card", "loan"]}, "sure": {"type": "boolean"}},
    "required": ["label", "sure"],
}

Setup = Callable[..., Any]


def gateway_to(kind: str, url: str, options: GatewayOptions | None = None) -> Gateway:
    """A gateway with one route to `url`."""
    provider = Provider(kind=kind, base_url=url)
    route = Route(name="one", tier="fast", provider="sim", model="m")
    prices = Prices({"sim/m": Price(input_usd_per_mtok="0.15", output_usd_per_mtok="0.60")})
    return Gateway([route], {"sim": provider}, prices, options or GatewayOptions())


@pytest.fixture(params=["openai", "anthropic"])
def kind(request: pytest.FixtureRequest) -> str:
    """The vendor."""
    return str(request.param)


@pytest.fixture
def setup(kind: str) -> Setup:
    """Starts a simulated provider of some configuration, and a gateway to it."""

    @asynccontextmanager
    async def running(
        options: GatewayOptions | None = None, **config: Any
    ) -> AsyncIterator[tuple[Gateway, RunningSim]]:
        sim = await start_provider_sim({"latency_s": 0.0, **config})
        gateway = gateway_to(kind, BASE[kind].format(sim.url), options)
        await gateway.start()
        try:
            yield gateway, sim
        finally:
            await gateway.stop()
            await gateway.stop()
            await sim.stop()

    return running


async def until(condition: Callable[[], bool]) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)


async def test_plain(setup: Setup) -> None:
    """A plain call returns the text, with the usage, money and call id that the provider's own ledger holds."""
    async with setup(output_tokens=20) as (gateway, sim):
        plan = plan_on_first(gateway, ASK)
        result = await gateway.execute(plan, "call-1", 5)
        (row,) = sim.ledger.rows()
        usage = result.completion.usage
        assert result.completion.text
        assert result.completion.stop_reason == "stop"
        assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (
            row.input_tokens,
            row.output_tokens,
            False,
        )
        assert (result.cost_nano, row.call_id, row.model) == (row.cost_nano, "call-1", "m")
        assert (result.route, result.provider, result.model) == ("one", "sim", "m")
        assert plan.reserve_nano >= row.cost_nano


async def test_length(setup: Setup) -> None:
    """`max_tokens` reaches the provider, and an answer cut short by it says so."""
    async with setup(output_tokens=20) as (gateway, _):
        result = await gateway.execute(plan_on_first(gateway, replace(ASK, max_tokens=5)), "c", 5)
        assert result.completion.stop_reason == "length"
        assert result.completion.usage.output_tokens == 5


async def test_stream(setup: Setup) -> None:
    """A stream gives on the text in pieces, and ends with the same text, exact usage and the ledger's money."""
    async with setup(output_tokens=40) as (gateway, sim):
        stream = gateway.stream(plan_on_first(gateway, replace(ASK, stream=True)), "call-2", 5)
        pieces = [piece async for piece in stream]
        (row,) = sim.ledger.rows()
        result = stream.result
        assert len(pieces) > 1
        assert "".join(pieces) == result.completion.text
        assert not result.completion.usage.estimated
        assert (result.completion.usage.output_tokens, result.cost_nano) == (row.output_tokens, row.cost_nano)
        assert row.call_id == "call-2"


async def test_stream_chunk_by_chunk(setup: Setup) -> None:
    """Read by chunks, a stream gives the vendor's own bytes, the end of its events included, and the pieces in them."""
    async with setup(output_tokens=40) as (gateway, _):
        plan = plan_on_first(gateway, replace(ASK, stream=True))
        stream = gateway.stream(plan, "c", 5)
        raw, deltas = b"", []
        while (got := await stream.read()) is not None:
            raw += got[0]
            deltas += got[1]
        assert await stream.read() is None
        completion = stream.result.completion
        assert "".join(delta.text for delta in deltas if delta.kind == "text") == completion.text
        decoder = plan.served.wire.stream(plan.request)
        assert decoder.feed(raw) == deltas
        assert (decoder.done, decoder.completion()) == (True, completion)


async def test_tools(setup: Setup, kind: str) -> None:
    """A tool call comes back in neutral form, whole and streamed, and its result can be sent back."""
    choice: Any = "required" if kind == "openai" else {"type": "any"}
    asked = replace(ASK, tools=[WEATHER], extra={"tool_choice": choice})
    async with setup() as (gateway, sim):
        whole = (await gateway.execute(plan_on_first(gateway, asked), "c", 5)).completion
        stream = gateway.stream(plan_on_first(gateway, replace(asked, stream=True)), "d", 5)
        assert [piece async for piece in stream] == []
        for completion in (whole, stream.result.completion):
            (call,) = completion.tool_calls
            assert (call.name, completion.stop_reason) == ("weather", "tool_calls")
            assert isinstance(json.loads(call.arguments)["city"], str)
            assert call.id
        called = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        }
        back = {"role": "tool", "tool_call_id": "t1", "content": "sunny"}
        result = await gateway.execute(
            plan_on_first(gateway, replace(ASK, messages=[*ASK.messages, called, back])), "e", 5
        )
        assert result.completion.text
        assert [row.status for row in sim.ledger.rows()] == [200, 200, 200]


@pytest.mark.parametrize("schema", [VERDICT, {"type": "array", "items": {"type": "integer"}, "minItems": 1}])
async def test_structured_output(setup: Setup, schema: dict[str, Any]) -> None:
    """With a schema the text is JSON that fits it, whole and streamed, also where its root is no object."""
    async with setup() as (gateway, _):
        asked = replace(ASK, schema=schema)
        whole = (await gateway.execute(plan_on_first(gateway, asked), "c", 5)).completion
        stream = gateway.stream(plan_on_first(gateway, replace(asked, stream=True)), "d", 5)
        assert [piece async for piece in stream]
        for completion in (whole, stream.result.completion):
            answer = json.loads(completion.text)
            assert isinstance(answer, list if schema["type"] == "array" else dict)
            assert (completion.tool_calls, completion.stop_reason) == ((), "stop")


async def test_rate_limited(setup: Setup) -> None:
    """A 429 is `rate_limited`, carries the vendor's wait to the millisecond, and is not billed."""
    async with setup(rpm=60, bucket_s=1) as (gateway, sim):
        await gateway.execute(plan_on_first(gateway, ASK), "a", 5)
        with pytest.raises(LlmError) as caught:
            await gateway.execute(plan_on_first(gateway, ASK), "b", 5)
        error = caught.value
        assert (error.code, error.status, error.final, error.billed) == ("rate_limited", 429, False, False)
        assert error.route == "one"
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= 1
        assert sim.ledger.totals().calls == 2, "a failed call is not tried again"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("fault", "code", "billed"),
    [("status_429", "rate_limited", False), ("status_500", "provider_5xx", False), ("garbage", "bad_response", True),
     ("cut", "bad_response", True)],
)  # fmt: skip
async def test_faults(setup: Setup, fault: str, code: str, billed: bool, streamed: bool) -> None:
    """Each fault has its code, says whether it may be billed, costs one request only, and the next call is well."""
    async with setup(fault_rates={fault: 1.0}, output_tokens=40) as (gateway, sim):
        for number in range(4):
            with pytest.raises(LlmError) as caught:
                await _make(gateway, f"c{number}", streamed, 5)
            assert (caught.value.code, caught.value.billed, caught.value.final) == (code, billed, False)
            assert caught.value.cost_nano is None
        assert sim.ledger.totals().calls == 4


async def _exhaust(stream: CallStream) -> None:
    async for _ in stream:
        pass


async def _make(gateway: Gateway, call_id: str, streamed: bool, timeout_s: float) -> None:
    plan = plan_on_first(gateway, replace(ASK, stream=streamed))
    if streamed:
        await _exhaust(gateway.stream(plan, call_id, timeout_s))
    else:
        await gateway.execute(plan, call_id, timeout_s)


@pytest.mark.parametrize("streamed", [False, True])
async def test_timeouts(setup: Setup, streamed: bool) -> None:
    """A slow provider fails with the timeout that fired, and its request ends with the total timeout."""
    options = GatewayOptions(first_byte_timeout_s=0.1, stream_first_byte_timeout_s=0.1)
    async with setup(options, latency_s=3.0) as (gateway, sim):
        for timeout_s, code in ((0.5, "timeout_first_byte"), (0.05, "timeout_total")):
            with pytest.raises(LlmError) as caught:
                await _make(gateway, code, streamed, timeout_s)
            assert (caught.value.code, caught.value.billed) == (code, True)
        await until(lambda: sim.ledger.totals().by_status == {"499": 2})


async def test_total_timeout_of_a_stream(setup: Setup) -> None:
    """A stream that began in time but drags on fails with `timeout_total`, its usage estimated."""
    async with setup(output_tokens=40, tokens_per_s=10) as (gateway, _):
        stream = gateway.stream(plan_on_first(gateway, replace(ASK, stream=True)), "c", 0.4)
        assert await anext(stream)
        with pytest.raises(LlmError) as caught:
            await _exhaust(stream)
        assert (caught.value.code, caught.value.billed) == ("timeout_total", True)
        assert caught.value.usage is not None
        assert caught.value.usage.estimated
        with pytest.raises(RuntimeError):
            _ = stream.result


async def test_cancelled(setup: Setup) -> None:
    """A cancelled call ends its request at once: the provider sees the caller leave, long before any timeout."""
    async with setup(latency_s=5.0) as (gateway, sim):
        task = asyncio.ensure_future(gateway.execute(plan_on_first(gateway, ASK), "gone", 60))
        await until(lambda: sim.ledger.totals().in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: sim.ledger.totals().by_status == {"499": 1})
        assert next(iter(sim.ledger.rows())).call_id == "gone"


async def test_stream_closed_early(setup: Setup) -> None:
    """Closing a stream closes the upstream connection; its result holds what came, the usage marked as estimated."""
    async with setup(output_tokens=45, tokens_per_s=20) as (gateway, sim):
        async with gateway.stream(plan_on_first(gateway, replace(ASK, stream=True)), "half", 30) as stream:
            first = await anext(stream)
        assert stream.result.completion.text.startswith(first)
        assert stream.result.completion.usage.estimated
        assert stream.result.cost_nano > 0
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await until(lambda: sim.ledger.totals().by_status == {"499": 1})


async def test_refused_request(setup: Setup) -> None:
    """A 4xx is final and repeats the vendor's words."""
    async with setup() as (gateway, sim):
        # The plan is right; only what is sent no longer is.
        plan = structs.replace(plan_on_first(gateway, ASK), body=b'{"model":"m","messages":[],"max_tokens":5}')
        with pytest.raises(LlmError, match="message") as caught:
            await gateway.execute(plan, "c", 5)
        assert (caught.value.code, caught.value.status, caught.value.final) == ("refused", 400, True)
        assert not caught.value.billed
        assert sim.ledger.totals().calls == 1


async def test_nobody_there(kind: str) -> None:
    """A provider that refuses connections is a `connection` error that cannot have been billed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        gateway = gateway_to(kind, f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        await gateway.start()
        with pytest.raises(LlmError) as caught:
            await gateway.execute(plan_on_first(gateway, ASK), "c", 5)
        await gateway.stop()
    assert (caught.value.code, caught.value.billed) == ("connection", False)


async def test_connect_timeout(kind: str) -> None:
    """A provider that does not take connections fails with `timeout_connect`, not billed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fill = [socket.socket() for _ in range(3)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        options = GatewayOptions(transport=TransportOptions(connect_timeout_s=0.2))
        gateway = gateway_to(kind, f"http://127.0.0.1:{listener.getsockname()[1]}", options)
        await gateway.start()
        with pytest.raises(LlmError) as caught:
            await gateway.execute(plan_on_first(gateway, ASK), "c", 5)
        await gateway.stop()
        for one in fill:
            one.close()
    assert (caught.value.code, caught.value.billed) == ("timeout_connect", False)


async def test_pool_is_bounded(setup: Setup) -> None:
    """No more calls than `connections_max` are at the provider at once, and freed connections are used again."""
    options = GatewayOptions(transport=TransportOptions(connections_max=2))
    async with setup(options, latency_s=0.05) as (gateway, sim):
        plan = plan_on_first(gateway, ASK)
        calls = [asyncio.ensure_future(gateway.execute(plan, f"c{n}", 5)) for n in range(6)]
        most = 0
        while not all(call.done() for call in calls):
            most = max(most, sim.ledger.totals().in_flight)
            await asyncio.sleep(0.005)
        await asyncio.gather(*calls)
        assert most <= 2
        for _ in range(3):
            stream = gateway.stream(plan_on_first(gateway, replace(ASK, stream=True)), "s", 5)
            await anext(stream)
            await stream.aclose()
        await gateway.execute(plan, "last", 5)


async def test_answer_too_large(setup: Setup) -> None:
    """An answer above `body_bytes_max` is given up as `bad_response`."""
    options = GatewayOptions(transport=TransportOptions(body_bytes_max=1000))
    async with setup(options, output_tokens=5000) as (gateway, _):
        with pytest.raises(LlmError, match="larger") as caught:
            await gateway.execute(plan_on_first(gateway, replace(ASK, max_tokens=5000)), "c", 5)
        assert (caught.value.code, caught.value.billed) == ("bad_response", True)
