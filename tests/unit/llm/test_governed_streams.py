"""Streams that end in odd ways: closed while somebody reads, with a failure unread, or for good without an answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from governor_kit import ASK, CALLER, MemoryBooks, SetBreaker, SetLimiter, governed, guards, route
from llm_kit import Script, gateway_to, read_request, serving
from tollway.config import Llm
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import LlmError
from tollway.llm.books import Terms
from tollway.llm.gateway import GatewayOptions
from tollway.llm.governor import Governor, GovernorOptions
from tollway.llm.transport import TransportOptions
from tollway.telemetry.metrics import Metrics

STREAM = replace(ASK, stream=True, max_tokens=400)
SLOW = {"a": {"tokens_per_s": 20.0, "output_tokens": 400}}


class Watched:
    """Guards and books of the route `name`, which remember."""

    def __init__(self, name: str = "a") -> None:
        self.name = name
        self.limiter, self.breaker, self.books = SetLimiter(), SetBreaker(), MemoryBooks()
        self.guards = guards({name: self.limiter}, {name: self.breaker})

    def ends(self, governor: Governor) -> tuple[Any, ...]:
        """What books, limiter and breaker heard, and how many calls are still in flight."""
        return (
            [what for what, _ in self.books.told],
            self.limiter.ends,
            self.breaker.ends,
            governor.board.meter(self.name).in_flight,
        )


@asynccontextmanager
async def scripted(script: Script, seen: Watched, **bounds: Any) -> AsyncIterator[Governor]:
    """A governor whose one route leads to a server that answers as scripted; `bounds` are of its connections."""
    async with serving(script) as url:
        gateway = gateway_to("openai", url, GatewayOptions(transport=TransportOptions(**bounds)))
        await gateway.start()
        try:
            yield Governor(gateway, seen.guards, Metrics(), GovernorOptions(Llm(), AnchoredClock()))
        finally:
            await gateway.stop()


async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Streams a word and a refusal, all at once."""
    await read_request(reader)
    chunks: list[dict[str, Any]] = [
        {"choices": [{"delta": {"content": "Well"}}]},
        {"choices": [{"delta": {"refusal": "I would rather not."}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}},
    ]
    body = b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    await writer.drain()
    await reader.read()


async def test_a_stream_closed_while_it_is_read_ends_once() -> None:
    """Closing a stream that another task waits on settles it once (P10); its reader is told, and nothing drifts."""
    seen = Watched()
    async with governed([route("a")], SLOW, seen.guards) as (governor, _):
        stream = await governor.stream(STREAM, CALLER, seen.books, Terms())
        await anext(stream)
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await stream.aclose()
        with pytest.raises(LlmError):
            await reading
        assert seen.ends(governor) == (["intend", "settle"], ["settle"], [True], 0)


async def test_a_stream_that_is_cut_has_no_answer() -> None:
    """Cut, a stream ends for books, limiter and breaker as a call that nobody waits for; a second time is nothing."""
    seen = Watched()
    async with governed([route("a")], SLOW, seen.guards) as (governor, _):
        stream = await governor.stream(STREAM, CALLER, seen.books, Terms())
        await anext(stream)
        await stream.cut()
        await stream.cut()
        await stream.aclose()
        assert seen.ends(governor) == (["intend", "cut"], ["failed"], [None], 0)


async def test_a_refusal_that_nobody_read_is_accounted_when_the_stream_is_closed() -> None:
    """A stream closed with the model's refusal still unread raises it; its call is settled and holds nothing more."""
    seen = Watched("one")
    async with scripted(refusing, seen) as governor:
        stream = await governor.stream(STREAM, CALLER, seen.books, Terms())
        with pytest.raises(LlmError, match="refused"):
            await stream.aclose()
        await stream.aclose()
        assert seen.ends(governor) == (["intend", "refused"], ["settle"], [None], 0)


async def test_a_stream_that_cannot_be_opened_is_accounted() -> None:
    """A call intended as its process stops, when the connections are gone already, leaves nothing held."""
    seen = Watched()

    class Stopping(MemoryBooks):
        async def intend(self, plan: Any) -> Any:
            await gateway.stop()
            return await super().intend(plan)

    async with governed([route("a")], None, seen.guards) as (governor, _):
        gateway = governor._kit.gateway
        seen.books = Stopping()
        with pytest.raises(RuntimeError):
            await governor.stream(STREAM, CALLER, seen.books, Terms())
        assert seen.ends(governor) == (["intend", "cut"], ["failed"], [None], 0)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says nothing."""
    await reader.read(-1)


async def test_a_step_without_time_says_nothing_against_a_route() -> None:
    """A step whose own time ends while it waits for a connection is the step's timeout; the breaker hears nothing."""
    seen = Watched("one")
    async with scripted(silent, seen, connections_max=1) as governor:
        first = asyncio.ensure_future(governor.complete(ASK, CALLER, MemoryBooks(), Terms()))
        await asyncio.sleep(0)
        with pytest.raises(LlmError) as caught:
            await governor.complete(ASK, CALLER, seen.books, Terms(timeout_s=0.1))
        assert (caught.value.code, caught.value.billed) == ("timeout_step", False)
        assert seen.breaker.ends == [None]
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
