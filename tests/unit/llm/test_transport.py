"""The LLM's HTTP against servers that misbehave, byte by byte."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tollway.domain.errors import LlmError
from tollway.llm.http import dial
from tollway.llm.transport import Transport, TransportOptions

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


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


def answering(*answers: bytes) -> Script:
    """Answers each request of a connection with the next bytes, then closes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()

    return script


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
    """A server that closes after its answer costs the next call nothing: a new connection is opened."""
    async with serving(answering(OK)) as url, transport_to(url) as transport:
        for number in range(3):
            assert (await transport.post(b"{}", f"c{number}", 5, None)).status == 200
            await asyncio.sleep(0.02)  # let the close arrive


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
    """Beyond the bound calls wait, and each is served; one that waits too long fails with timeout_connect, unbilled."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            await asyncio.sleep(0.02)
            writer.write(OK)

    async with serving(script) as url, transport_to(url, connections_max=1, connect_timeout_s=0.2) as transport:
        answers = await asyncio.gather(*(transport.post(b"{}", f"c{n}", 5, None) for n in range(4)))
        assert [answer.status for answer in answers] == [200] * 4
        results = await asyncio.gather(
            *(transport.post(b"{}", f"d{n}", 5, None) for n in range(40)), return_exceptions=True
        )
        failed = [result for result in results if isinstance(result, LlmError)]
        assert failed
        assert {(error.code, error.billed) for error in failed} == {("timeout_connect", False)}


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
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 32 << 20
        await exchange.close()


async def test_nowhere_to_connect() -> None:
    """A name that does not resolve is a `connection` failure that cannot have been billed."""
    async with transport_to("http://no-such-host.invalid/v1") as transport:
        with pytest.raises(LlmError) as caught:
            await transport.post(b"{}", "c", 5, None)
    assert (caught.value.code, caught.value.billed) == ("connection", False)


async def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is accepted when its authority is trusted, and refused with a clear reason when it is not."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl program to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=local"]
    alternative = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [openssl, *request, *alternative, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with serving(answering(OK), context) as url, transport_to(url) as transport:
        with pytest.raises(LlmError, match="certificate") as caught:
            await transport.post(b"{}", "c", 5, None)
        assert (caught.value.code, caught.value.billed) == ("connection", False)
        monkeypatch.setattr(dial, "tls_context", lambda: ssl.create_default_context(cafile=str(certificate)))
        assert (await transport.post(b"{}", "c", 5, None)).status == 200


def test_a_header_cannot_smuggle_another() -> None:
    """A key with a line break is refused before anything is sent."""
    with pytest.raises(ValueError, match="line break"):
        Transport("http://127.0.0.1:1/", {"authorization": "x\r\nevil: 1"}, TransportOptions())
