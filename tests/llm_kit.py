"""Gateways to every kind of provider, a server that answers as a script says, byte by byte, and a transport to it."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tollway.config import Price, Provider, Route
from tollway.domain.llm import LlmRequest
from tollway.llm.calls import Plan
from tollway.llm.estimate import input_tokens
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.llm.transport import Transport, TransportOptions
from tollway.spend.prices import Prices

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"

ASK = LlmRequest("fast", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi there"}], 50)
KINDS: dict[str, dict[str, Any]] = {
    "openai": {"kind": "openai", "base_url": "{}/v1"},
    "responses": {"kind": "openai", "base_url": "{}/v1", "api": "responses"},
    "emulated": {"kind": "openai", "base_url": "{}/v1", "structured": "emulated"},
    "anthropic": {"kind": "anthropic", "base_url": "{}"},
    "gemini": {"kind": "gemini", "base_url": "{}/v1beta"},
}


@asynccontextmanager
async def serving(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server on loopback that runs `script` for each connection."""
    tasks = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    scheme = "https" if context else "http"
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/x"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One whole request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


@asynccontextmanager
async def transport_to(url: str, **options: float) -> AsyncIterator[Transport]:
    """A started transport."""
    transport = Transport(url, {"authorization": "Bearer k"}, TransportOptions(**options))  # type: ignore[arg-type]
    await transport.start()
    try:
        yield transport
    finally:
        await transport.stop()


def answering(*answers: bytes, seen: list[bytes] | None = None) -> Script:
    """Answers each request of a connection with the next bytes, then closes; the requests are added to `seen`."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            request = await read_request(reader)
            if seen is not None:
                seen.append(request)
            writer.write(answer)
            await writer.drain()

    return script


async def until(condition: Callable[[], bool]) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.002)


def plan_on_first(gateway: Gateway, request: LlmRequest) -> Plan:
    """A call on the first route that serves what is asked for."""
    served = gateway.tiers.groups(request.tier)[0].routes[0]
    return gateway.plan(request, served, input_tokens(request))


def gateway_to(kind: str, url: str, options: GatewayOptions | None = None) -> Gateway:
    """A gateway with one route to the server at `url`."""
    told = KINDS[kind]
    provider = Provider(**{**told, "base_url": told["base_url"].format(url)})
    route = Route(name="one", tier="fast", provider="sim", model="m")
    prices = Prices(
        {"sim/m": Price(input_usd_per_mtok="0.15", output_usd_per_mtok="0.60", cached_input_usd_per_mtok="0.05")}
    )
    return Gateway([route], {"sim": provider}, prices, options or GatewayOptions())
