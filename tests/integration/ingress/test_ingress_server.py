"""The real server on a real socket: the short way of the hot routes and the long one answer alike."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from asgi_client import AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness
from tollway.domain.errors import ConfigError
from tollway.ingress.listening import listen
from tollway.ingress.server import ApiServer, ServerOptions

BODY = json.dumps({"agent": "echo", "input": {"n": 1}}).encode()
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[ApiServer], Awaitable[Connection]]


@pytest.fixture
async def server(harness: ApiHarness) -> AsyncIterator[ApiServer]:
    """A listening server."""
    server = ApiServer(harness.api, listen("127.0.0.1", 0), ServerOptions(grace_s=5))
    await server.start()
    yield server
    await server.stop()


def request(method: str, path: str, body: bytes = b"", *, version: str = "1.1", headers: str = "") -> bytes:
    """The bytes of a request."""
    head = f"{method} {path} HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n{headers}"
    if body and "chunked" not in headers:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read one answer."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections and closes them at the end."""
    opened: list[asyncio.StreamWriter] = []

    async def connect(server: ApiServer) -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        opened.append(writer)
        return reader, writer

    yield connect
    for writer in opened:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_connection_carries_many_requests(server: ApiServer, connect: Connect) -> None:
    """Keep-alive: submits, reads, refusals and other routes one after the other; reads show what submits answered."""
    reader, writer = await connect(server)
    for _ in range(3):
        writer.write(request("POST", "/v1/runs", BODY))
        status, _, body = await answer(reader)
        assert status == 202
        writer.write(request("GET", f"/v1/runs/{json.loads(body)['id']}"))
        assert (await answer(reader))[::2] == (200, body)
        writer.write(request("GET", "/healthz"))
        assert (await answer(reader))[0] == 200
        writer.write(request("POST", "/v1/runs", b"{"))
        status, headers, _ = await answer(reader)
        assert (status, headers["content-type"]) == (400, "application/problem+json")


async def test_pipelined_requests_are_answered_in_order(server: ApiServer, connect: Connect) -> None:
    """Many requests in one packet, hot and other: as many answers, each in its turn."""
    reader, writer = await connect(server)
    writer.write(b"".join(request("POST", "/v1/runs", BODY) + request("GET", "/healthz") for _ in range(10)))
    assert [(await answer(reader))[0] for _ in range(20)] == [202, 200] * 10


async def test_bodies_come_in_any_form(server: ApiServer, connect: Connect) -> None:
    """Byte by byte, chunked, after 100-continue, large, by HTTP/1.0, and with `Connection: close`: all are accepted."""
    reader, writer = await connect(server)
    for byte in request("POST", "/v1/runs", BODY):
        writer.write(bytes([byte]))
        await writer.drain()
    assert (await answer(reader))[0] == 202
    kind = "Content-Type: application/json\r\n"
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    writer.write(request("POST", "/v1/runs", chunked, headers=f"{kind}Transfer-Encoding: chunked\r\n"))
    assert (await answer(reader))[0] == 202
    head, _, body = request("POST", "/v1/runs", BODY, headers="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n")
    assert b"100" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    writer.write(body)
    assert (await answer(reader))[0] == 202
    large = json.dumps({"agent": "echo", "input": "x" * 300_000}).encode()
    writer.write(request("POST", "/v1/runs", large))
    assert (await answer(reader))[0] == 202
    writer.write(request("POST", "/v1/runs", BODY, headers="Connection: close\r\n"))
    status, headers, _ = await answer(reader)
    assert (status, headers["connection"]) == (202, "close")
    assert await reader.read() == b""
    reader, writer = await connect(server)
    writer.write(request("POST", "/v1/runs", BODY, version="1.0"))
    assert (await answer(reader))[0] == 202
    assert await reader.read() == b""


async def test_a_body_beyond_the_bound_is_refused_while_it_comes(server: ApiServer, connect: Connect) -> None:
    """413 on the declared length, before the body is there."""
    reader, writer = await connect(server)
    writer.write(request("POST", "/v1/runs", b"x" * 10, headers="").replace(b"Length: 10", b"Length: 99999999"))
    assert (await answer(reader))[0] == 413


async def test_a_repeated_key_is_said_on_the_short_way_too(server: ApiServer, connect: Connect) -> None:
    """The second submit with a key answers the first run and says so."""
    reader, writer = await connect(server)
    found = []
    for _ in range(2):
        writer.write(request("POST", "/v1/runs", BODY, headers="Idempotency-Key: k1\r\n"))
        found.append(await answer(reader))
    assert found[0][2] == found[1][2]
    assert "idempotency-replayed" not in found[0][1]
    assert found[1][1]["idempotency-replayed"] == "true"


async def test_a_repeat_passes_a_shut_door_on_the_short_way_too(
    server: ApiServer, connect: Connect, admin: AsgiClient
) -> None:
    """With the queue full a repeat of a key is its run and says so, another body a conflict, the rest is refused."""
    assert (await admin.put("/v1/tenants/default", {"max_queued": 1})).status == 200
    reader, writer = await connect(server)
    found = []
    for body, headers in ((BODY, "k1"), (BODY, "k1"), (BODY[:-1] + b" }", "k1"), (b'{"agent":"echo","input":2}', "k1")):
        writer.write(request("POST", "/v1/runs", body, headers=f"Idempotency-Key: {headers}\r\n"))
        found.append(await answer(reader))
    writer.write(request("POST", "/v1/runs", BODY, headers="Idempotency-Key: k2\r\n"))
    found.append(await answer(reader))
    writer.write(request("POST", "/v1/runs", BODY))
    found.append(await answer(reader))
    assert [status for status, _, _ in found] == [202, 202, 202, 409, 429, 429]
    assert found[0][2] == found[1][2] == found[2][2]
    assert found[2][1]["idempotency-replayed"] == "true"


async def test_a_client_that_leaves_early_harms_nobody(server: ApiServer, connect: Connect) -> None:
    """A connection cut right after the request: the run is accepted, the next client is served."""
    _, gone = await connect(server)
    gone.write(request("POST", "/v1/runs", BODY))
    await gone.drain()
    gone.transport.abort()
    reader, writer = await connect(server)
    items: list[object] = []
    async with asyncio.timeout(10):
        while not items:
            writer.write(request("GET", "/v1/runs"))
            items = json.loads((await answer(reader))[2])["items"]


async def test_stopping_finishes_what_is_under_way(harness: ApiHarness, connect: Connect) -> None:
    """A stop with idle connections open returns; a taken port is a configuration error that names it."""
    server = ApiServer(harness.api, listen("127.0.0.1", 0), ServerOptions(grace_s=5))
    await server.start()
    reader, writer = await connect(server)
    writer.write(request("POST", "/v1/runs", BODY))
    assert (await answer(reader))[0] == 202
    with pytest.raises(ConfigError) as refused:
        listen("127.0.0.1", server.port)
    assert refused.value.key == "server.port"
    await asyncio.wait_for(server.stop(), 10)
    assert await reader.read() == b""
    await server.stop()
