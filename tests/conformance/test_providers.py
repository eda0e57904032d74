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
from msgspec import Raw, structs

from llm_kit import ASK, KINDS, gateway_to, plan_on_first
from tollway.domain.errors import LlmError
from tollway.domain.llm import Sent
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.llm.streams import CallStream
from tollway.llm.transport import TransportOptions
from tollway.simulator.provider import RunningSim, start_provider_sim

ASK_RAW = b'[{"role":"user", "content": "Hi there"}]'
SENT = {
    "openai": ("openai.chat", {"messages": ASK_RAW}),
    "responses": ("openai.responses", {"input": b'"Hi"'}),
    "anthropic": ("anthropic.messages", {"messages": ASK_RAW}),
}
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


@pytest.fixture(params=KINDS)
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
        gateway = gateway_to(kind, sim.url, options)
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
        assert stream.fields[b"content-type"].startswith(b"text/event-stream")
        completion = stream.result.completion
        assert "".join(delta.text for delta in deltas if delta.kind == "text") == completion.text
        decoder = plan.served.wire.stream(plan.request)
        assert decoder.feed(raw) == deltas
        assert (decoder.done, decoder.completion()) == (True, completion)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_tools(setup: Setup, choice: Any) -> None:
    """A tool call comes back in neutral form, whole and streamed, and its result can be sent back."""
    asked = replace(ASK, tools=[WEATHER], tool_choice=choice)
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


async def test_tools_may_be_forbidden(setup: Setup) -> None:
    """A request that offers tools and lets none be called is a right one on every wire."""
    async with setup() as (gateway, _):
        for choice in ("auto", "none"):
            asked = replace(ASK, tools=[WEATHER], tool_choice=choice, top_p=0.5, temperature=0.5)
            assert (await gateway.execute(plan_on_first(gateway, asked), "c", 5)).completion.text


async def test_cached_and_reasoning_usage(setup: Setup, kind: str) -> None:
    """Tokens read from the vendor's cache and tokens of thought are told apart and charged right, also of a stream."""
    prices = {"cached_input_usd_per_mtok": 0.05}
    async with setup(cached_share=0.5, reasoning_share=0.25, output_tokens=40, prices=prices) as (gateway, sim):
        whole = await gateway.execute(plan_on_first(gateway, ASK), "c", 5)
        stream = gateway.stream(plan_on_first(gateway, replace(ASK, stream=True)), "d", 5)
        await _exhaust(stream)
        for result, row in zip((whole, stream.result), sim.ledger.rows(), strict=True):
            usage = result.completion.usage
            assert (usage.input_tokens, usage.cached_tokens) == (row.input_tokens, row.input_tokens // 2)
            thought = 0 if kind == "anthropic" else 10  # that vendor does not tell them apart
            assert (usage.output_tokens, usage.reasoning_tokens, usage.estimated) == (40, thought, False)
            assert result.cost_nano == row.cost_nano


async def test_images(setup: Setup) -> None:
    """An image in the common form reaches the vendor in a form it takes, its data untouched."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    message = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}
    async with setup() as (gateway, _):
        plan = plan_on_first(gateway, replace(ASK, messages=[message]))
        assert b"QUJD" in plan.body
        assert (await gateway.execute(plan, "c", 5)).completion.text


async def test_embeddings(setup: Setup, kind: str) -> None:
    """Texts become vectors in their order, their input counted; a vendor without embeddings refuses before sending."""
    asked = replace(ASK, messages=[], inputs=("one text", "another", "one text"))
    async with setup() as (gateway, sim):
        if kind == "anthropic":
            with pytest.raises(LlmError, match="embeddings"):
                plan_on_first(gateway, asked)
            return
        completion = (await gateway.execute(plan_on_first(gateway, asked), "c", 5)).completion
        one, other, same = completion.vectors
        (row,) = sim.ledger.rows()
        assert (one == same, one == other, len(one)) == (True, False, 16)
        assert (row.status, row.output_tokens, completion.usage.output_tokens) == (200, 0, 0)
        assert completion.usage.estimated == (kind == "gemini")
        assert completion.usage.estimated or completion.usage.input_tokens == row.input_tokens


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", SENT)
async def test_unknown_fields_pass_through(setup: Setup, kind: str, streamed: bool) -> None:
    """What a client sent in the vendor's own form goes on byte for byte but for what is ours to set."""
    form, fields = SENT[kind]
    odd = b'{"deep": [1.50, "\\u00fc"],  "x":1}'
    given = {**fields, "x_new": odd, "model": b'"tier"', "stream": b"false", "max_tokens": b"9", "temperature": b"0.70"}
    if kind == "responses":
        given["max_output_tokens"] = given.pop("max_tokens")
    sent = Sent(form, {name: Raw(value) for name, value in given.items()})
    asked = replace(ASK, sent=sent, stream=streamed, extra={"never": "sent"})
    async with setup(output_tokens=30) as (gateway, sim):
        plan = plan_on_first(gateway, asked)
        assert b'"x_new":' + odd in plan.body
        assert b'"temperature":0.70' in plan.body
        body = json.loads(plan.body)
        assert (body["model"], body.get("stream", False), "never" in body) == ("m", streamed, False)
        assert body["max_output_tokens" if kind == "responses" else "max_tokens"] == 50
        if streamed:
            stream = gateway.stream(plan, "c", 5)
            raw = b""
            while (got := await stream.read()) is not None:
                raw += got[0]
            assert raw.startswith((b"data: {", b"event: "))
            assert not stream.result.completion.usage.estimated
        else:
            completion = (await gateway.execute(plan, "c", 5)).completion
            assert completion.form == form
            assert completion.text.encode() in completion.body
            json.loads(completion.body)
        assert [row.status for row in sim.ledger.rows()] == [200]


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
        with pytest.raises(LlmError, match=r"answered 400: (?!no reason)") as caught:
            await gateway.execute(plan, "c", 5)
        assert (caught.value.code, caught.value.status, caught.value.final) == ("refused", 400, True)
        assert not caught.value.billed
        assert sim.ledger.totals().calls == 1


async def test_nobody_there(kind: str) -> None:
    """A provider that refuses connections is a `connection` error that cannot have been billed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        gateway = gateway_to(kind, f"http://127.0.0.1:{taken.getsockname()[1]}")
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
