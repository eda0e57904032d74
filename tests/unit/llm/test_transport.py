"""The LLM's HTTP against servers that misbehave, byte by byte."""

import asyncio
import socket

import pytest

from llm_kit import OK, answering, read_request, serving, transport_to, until
from tollway.domain.errors import LlmError
from tollway.llm.calls import failure
from tollway.llm.http.pool import Pool
from tollway.llm.transport import Transport, TransportOptions


def pool_of(transport: Transport) -> Pool:
    """What it draws its connections from."""
    assert transport._pool is not None
    return transport._pool


async def test_request_is_whole_and_connection_is_used_again() -> None:
    """Head, call id and body arrive in one request, and the next call goes over the same connection."""
    seen: list[bytes] = []
    peers = set()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        while True:
            seen.append(await read_request(reader))
            writer.write(OK)

    async with serving(script) as url, transport_to(url) as transport:
        for number in range(3):
            answer = await transport.post(b'{"n":1}', f"call-{number}", 5, None)
            assert (answer.status, answer.body) == (200, b"{}")
    assert len(peers) == 1
    assert b"POST /v1/x HTTP/1.1\r\n" in seen[0]
    assert b"x-tollway-call-id: call-2\r\n" in seen[2]
    assert b"authorization: Bearer k\r\n" in seen[0]
    assert seen[0].endswith(b'\r\n\r\n{"n":1}')


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf", "bad_response"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "bad_response"),
        (b"", "connection"),
    ],
)
async def test_broken_answers(answer: bytes, code: str) -> None:
    """Garbage, a cut body and a closed door are failures of the call, billed since it was sent, and never a hang."""
    async with serving(answering(answer)) as url, transport_to(url) as transport:
        with pytest.raises(LlmError) as caught:
            await transport.post(b"{}", "c", 5, None)
        assert (caught.value.code, caught.value.billed) == (code, True)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\nx-trailer: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nx-big: " + b"y" * 30_000 + b"\r\ncontent-length: 2\r\n\r\n{}",
    ],
)
async def test_odd_answers_are_understood(answer: bytes) -> None:
    """Interim answers, chunks with trailers, a body that ends with the connection, and large headers."""
    async with serving(answering(answer)) as url, transport_to(url) as transport:
        assert (await transport.post(b"{}", "c", 5, None)).body == b"{}"


async def test_connection_closed_while_idle_is_not_used() -> None:
    """A server that closes after its answer costs the next call nothing: the close is noticed at once."""
    async with serving(answering(OK)) as url, transport_to(url) as transport:
        for number in range(3):
            assert (await transport.post(b"{}", f"c{number}", 5, None)).status == 200
            await until(lambda: pool_of(transport).take() is None)


async def test_a_connection_that_dies_under_a_call_is_not_tried_again() -> None:
    """A kept connection that breaks before the answer fails the call, billed, and the request is sent only once."""
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(OK)
        seen.append(await read_request(reader))

    async with serving(script) as url, transport_to(url) as transport:
        await transport.post(b"{}", "first", 5, None)
        with pytest.raises(LlmError, match="before it answered") as caught:
            await transport.post(b"{}", "second", 5, None)
        assert (caught.value.code, caught.value.billed) == ("connection", True)
    assert len(seen) == 2


@pytest.mark.parametrize("surplus", [OK, OK[:20], b"junk\r\n\r\n"])
async def test_more_than_one_answer_ends_the_connection(surplus: bytes) -> None:
    """What follows a whole answer unasked is never taken for the answer to a later call."""
    peers = set()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        await read_request(reader)
        writer.write(OK + surplus)
        await reader.read()

    async with serving(script) as url, transport_to(url) as transport:
        for number in range(2):
            assert (await transport.post(b"{}", f"c{number}", 5, None)).body == b"{}"
    assert len(peers) == 2


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nx-endless: ", b"HTTP/1.1 103 Early\r\nx-endless: "])
async def test_endless_headers(start: bytes) -> None:
    """Headers without end fail the call long before they fill the memory."""
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(start)
        while sent < 64 << 20:
            writer.write(b"y" * 65_536)
            await writer.drain()
            sent += 65_536

    async with serving(script) as url, transport_to(url) as transport:
        with pytest.raises(LlmError, match="headers") as caught:
            await transport.post(b"{}", "c", 10, None)
        assert caught.value.code == "bad_response"
    assert sent < 32 << 20


async def test_body_limit() -> None:
    """An answer beyond the limit is a failure, and billed."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000
    async with serving(answering(answer)) as url, transport_to(url, body_bytes_max=100_000) as transport:
        with pytest.raises(LlmError, match="larger than 100000") as caught:
            await transport.post(b"{}", "c", 5, None)
        assert (caught.value.code, caught.value.billed) == ("bad_response", True)


async def test_a_redirect_is_not_followed() -> None:
    """A redirect comes back as it is, for the gateway to name a failure; nothing is sent to where it points."""
    answer = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n"
    async with serving(answering(answer, OK)) as url, transport_to(url) as transport:
        assert (await transport.post(b"{}", "c", 5, None)).status == 307
    error = failure(307, b"", None)
    assert (error.code, error.billed) == ("bad_response", False)


async def test_timeouts_have_their_own_names() -> None:
    """No first byte, and no whole answer, are told apart; both close the connection."""
    gone = asyncio.Event()

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{")
        await reader.read()
        gone.set()

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await reader.read()
        gone.set()

    for script, first_byte_s, code in ((dribble, 0.05, "timeout_total"), (silence, 0.05, "timeout_first_byte")):
        gone.clear()
        async with serving(script) as url, transport_to(url) as transport:
            with pytest.raises(LlmError) as caught:
                await transport.post(b"{}", "c", 0.15, first_byte_s)
            assert (caught.value.code, caught.value.billed) == (code, True)
            async with asyncio.timeout(2):
                await gone.wait()


async def test_cancel_closes_the_connection_at_once() -> None:
    """Whoever stops waiting stops paying: the server sees the close while it still thinks."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        await reader.read()
        gone.set()

    async with serving(script) as url, transport_to(url) as transport:
        task = asyncio.ensure_future(transport.post(b"{}", "c", 60, None))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(2):
            await gone.wait()


async def test_waiters_get_connections_in_turn() -> None:
    """Beyond the bound calls wait, each is served in its turn, and no more connections are opened."""
    order: list[bytes] = []
    open_now = peak = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, peak
        open_now += 1
        peak = max(peak, open_now)
        try:
            while True:
                order.append((await read_request(reader)).split(b"call-id: ")[1].split(b"\r\n")[0])
                keep = len(order) % 3 != 0
                writer.write(OK if keep else OK.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
                if not keep:
                    return
        finally:
            open_now -= 1

    async with serving(script) as url, transport_to(url, connections_max=1) as transport:
        answers = await asyncio.gather(*(transport.post(b"{}", f"c{n}", 5, None) for n in range(10)))
    assert [answer.status for answer in answers] == [200] * 10
    assert order == [b"c%d" % number for number in range(10)]
    assert peak == 1


async def test_who_waits_too_long_or_leaves_gives_up_the_turn() -> None:
    """A wait is bounded by the connect timeout, unbilled; one that is cancelled passes its turn on."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            asked.set()
            await go.wait()
            writer.write(OK)

    async with serving(script) as url, transport_to(url, connections_max=1, connect_timeout_s=0.1) as transport:
        holder = asyncio.ensure_future(transport.post(b"{}", "holder", 5, None))
        await asked.wait()
        with pytest.raises(LlmError) as caught:
            await transport.post(b"{}", "late", 5, None)
        assert (caught.value.code, caught.value.billed) == ("timeout_connect", False)
        leaving, staying = (asyncio.ensure_future(transport.post(b"{}", name, 5, None)) for name in ("leaves", "stays"))
        await asyncio.sleep(0)
        holder.add_done_callback(lambda _: leaving.cancel())
        go.set()
        await asyncio.wait({holder, leaving, staying}, timeout=5)
        assert staying.result().status == 200


async def test_stop_ends_every_call() -> None:
    """At stop, calls under way and calls waiting for a connection fail at once, and only the first may be billed."""
    asked = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        await reader.read()

    async with serving(script) as url, transport_to(url, connections_max=1, connect_timeout_s=60) as transport:
        tasks = [asyncio.ensure_future(transport.post(b"{}", f"c{n}", 60, None)) for n in range(3)]
        await asked.wait()
        await transport.stop()
        async with asyncio.timeout(5):
            errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [(error.code, error.billed) for error in errors if isinstance(error, LlmError)] == [
        ("connection", True),
        ("connection", False),
        ("connection", False),
    ]


async def test_idle_connections_are_closed_in_time() -> None:
    """A connection that nobody needed for the idle limit is closed by us, before a server would."""
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await reader.read()
        gone.set()

    async with serving(script) as url, transport_to(url, idle_timeout_s=0.05) as transport:
        await transport.post(b"{}", "c", 5, None)
        async with asyncio.timeout(5):
            await gone.wait()


async def test_closed_while_it_waits() -> None:
    """Closing an exchange wakes whoever waits for its next piece, and ends the request."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        await reader.read()
        gone.set()

    async with serving(script) as url, transport_to(url) as transport:
        exchange = transport.open(b"{}", "c", 60)
        reading = asyncio.ensure_future(exchange.first(None))
        await asked.wait()
        await exchange.close()
        async with asyncio.timeout(5):
            assert await reading is None
            await gone.wait()


async def test_stream_back_pressure_and_early_close() -> None:
    """A stream nobody reads is not swallowed whole, and closing it early closes the connection."""
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while sent < 64 << 20:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536

    async with serving(script) as url, transport_to(url) as transport:
        exchange = transport.open(b"{}", "c", 30)
        assert await exchange.first(5)
        await until(lambda: exchange.unread > 262_144)
        for _ in range(200):
            await asyncio.sleep(0)
        assert exchange.unread < 2 << 20
        swallowed = sent
        while sent < swallowed + (8 << 20):
            assert await exchange.read()
        assert exchange.unread < 2 << 20
        await exchange.close()


async def test_nobody_listens() -> None:
    """A refused connection is a `connection` failure that cannot have been billed, and says where."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        async with transport_to(f"http://127.0.0.1:{port}/v1") as transport:
            with pytest.raises(LlmError, match=f"127.0.0.1:{port}") as caught:
                await transport.post(b"{}", "c", 5, None)
    assert (caught.value.code, caught.value.billed) == ("connection", False)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "a" * 70])
async def test_nowhere_to_connect(host: str) -> None:
    """A name that does not resolve, or is none, is a `connection` failure that cannot have been billed."""
    async with transport_to(f"http://{host}/v1") as transport:
        with pytest.raises(LlmError) as caught:
            await transport.post(b"{}", "c", 5, None)
    assert (caught.value.code, caught.value.billed) == ("connection", False)


def test_a_header_cannot_smuggle_another() -> None:
    """A key with a line break is refused before anything is sent."""
    with pytest.raises(ValueError, match="line break"):
        Transport("http://127.0.0.1:1/", {"authorization": "x\r\nevil: 1"}, TransportOptions())
