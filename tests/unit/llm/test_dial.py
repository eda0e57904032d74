"""The way to a provider: names, TLS and proxies."""

import asyncio
import shutil
import ssl
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llm_kit import OK, answering, read_request, serving, transport_to
from tollway.domain.errors import ConfigError, LlmError
from tollway.llm.http.dial import target_of, tls_context
from tollway.llm.http.proxy import proxy_for
from tollway.llm.transport import Transport, TransportOptions

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment asks for none."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that signs itself, for 127.0.0.1 and provider.test, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl program to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=local", "-addext", "subjectAltName=IP:127.0.0.1,DNS:provider.test"]
    subprocess.run([openssl, *request, *names, "-keyout", key, "-out", made], check=True, capture_output=True)
    return made, key


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """What the server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SSL_CERT_FILE names the certificate, as an operator with an authority of his own would have it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    tls_context.cache_clear()
    yield
    tls_context.cache_clear()


@asynccontextmanager
async def proxying(to: str, seen: list[bytes], answer: bytes = b"200 Connection established") -> AsyncIterator[str]:
    """A proxy that notes the head of each request and passes CONNECTs on to the server at `to`, whatever they name."""
    _, _, authority = to.split("/", 3)[:3]
    host, port = authority.split(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head)
        if not head.startswith(b"CONNECT"):
            writer.write(OK)
            return
        writer.write(b"HTTP/1.1 " + answer + b"\r\n\r\n")
        if not answer.startswith(b"200"):
            return
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        finally:
            far_writer.close()

    async with serving(script) as url:
        yield url.removesuffix("/v1/x")


async def test_a_trusted_certificate(server_tls: ssl.SSLContext, trusted: None) -> None:
    """A server whose authority SSL_CERT_FILE names is served over TLS, and its connection is kept."""
    async with serving(answering(OK, OK), server_tls) as url, transport_to(url) as transport:
        for number in range(2):
            assert (await transport.post(b"{}", f"c{number}", 5, None)).body == b"{}"


async def test_an_unknown_certificate(server_tls: ssl.SSLContext) -> None:
    """A certificate nobody vouches for is refused before anything is sent, with the reason and the remedy."""
    async with serving(answering(OK), server_tls) as url, transport_to(url) as transport:
        with pytest.raises(LlmError, match=r"certificate is not trusted: .*self.signed.*SSL_CERT_FILE") as caught:
            await transport.post(b"{}", "c", 5, None)
        assert (caught.value.code, caught.value.billed) == ("connection", False)


async def test_a_certificate_of_another_name(server_tls: ssl.SSLContext, trusted: None) -> None:
    """A trusted certificate is refused for a host that it does not name."""
    async with (
        serving(answering(OK), server_tls) as url,
        transport_to(url.replace("127.0.0.1", "localhost")) as transport,
    ):
        with pytest.raises(LlmError, match=r"not trusted: .*[Hh]ostname mismatch"):
            await transport.post(b"{}", "c", 5, None)


async def test_a_handshake_without_end() -> None:
    """A server that takes the connection and never answers the TLS hello costs the connect timeout, unbilled."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass

    async with serving(script) as url, transport_to(url.replace("http:", "https:"), connect_timeout_s=0.1) as transport:
        with pytest.raises(LlmError) as caught:
            await transport.post(b"{}", "c", 30, None)
        assert (caught.value.code, caught.value.billed) == ("timeout_connect", False)


async def test_tls_through_a_proxy(server_tls: ssl.SSLContext, trusted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An https provider is reached by CONNECT, with the proxy's password and the provider's own certificate."""
    seen: list[bytes] = []
    requests: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            requests.append(await read_request(reader))
            writer.write(OK)

    async with serving(script, server_tls) as url, proxying(url, seen) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.replace("http://", "http://me:p%40ss@"))
        async with transport_to("https://provider.test/v1/x") as transport:
            for number in range(2):
                assert (await transport.post(b"{}", f"c{number}", 5, None)).body == b"{}"
    (connect,) = seen
    assert connect.startswith(b"CONNECT provider.test:443 HTTP/1.1\r\n")
    assert b"proxy-authorization: Basic " + b64encode(b"me:p@ss") in connect
    assert len(requests) == 2
    assert requests[0].startswith(b"POST /v1/x HTTP/1.1\r\nhost: provider.test\r\n")
    assert b"proxy-authorization" not in requests[0]


async def test_plain_http_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An http provider is asked of the proxy by its whole address."""
    seen: list[bytes] = []
    async with proxying("http://127.0.0.1:1/", seen) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        async with transport_to("http://provider.test:8080/v1/x") as transport:
            assert (await transport.post(b"", "c", 5, None)).body == b"{}"
    assert seen[0].startswith(b"POST http://provider.test:8080/v1/x HTTP/1.1\r\nhost: provider.test:8080\r\n")


async def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the proxy says to CONNECT is in the error, and nothing can have been billed."""
    async with proxying("http://127.0.0.1:1/", [], b"407 Proxy Authentication Required") as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy)
        async with transport_to("https://provider.test/v1/x") as transport:
            with pytest.raises(LlmError, match=r"through the proxy .* 407 Proxy Authentication") as caught:
                await transport.post(b"{}", "c", 5, None)
    assert (caught.value.code, caught.value.billed) == ("connection", False)


async def test_a_proxy_that_hangs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that closes without an answer is a failure to connect, and no hang."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with serving(script) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        async with transport_to("https://provider.test/v1/x") as transport:
            with pytest.raises(LlmError, match="hung up"):
                await transport.post(b"{}", "c", 5, None)


@pytest.mark.parametrize(
    ("host", "tls", "goes"),
    [
        ("api.example.com", True, True),
        ("api.example.com", False, False),
        ("inside.corp.test", True, False),
        ("localhost", True, False),
        ("127.0.0.2", True, False),
        ("::1", True, False),
    ],
)
def test_which_hosts_go_through_the_proxy(host: str, tls: bool, goes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scheme has its own proxy; NO_PROXY and this machine's own addresses go straight."""
    monkeypatch.setenv("HTTPS_PROXY", "proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", ".corp.test")
    proxy = proxy_for(host, tls=tls)
    assert (proxy is not None) == goes
    if proxy is not None:
        assert (proxy.host, proxy.port) == ("proxy.test", 3128)


@pytest.mark.parametrize("url", ["socks5://user:secret@proxy.test:1080", "http://proxy.test:99999"])
def test_a_proxy_that_cannot_be_used(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused at start, naming the variable, and its password is not shown."""
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as caught:
        Transport("https://provider.test/v1", {}, TransportOptions())
    assert "secret" not in str(caught.value)


def test_targets() -> None:
    """Base URLs with paths, ports and IPv6 addresses become what the request line and the host header say."""
    assert target_of("https://api.test/v1/chat?x=1").path == "/v1/chat?x=1"
    assert target_of("https://api.test/v1").authority == "api.test"
    assert target_of("http://api.test:8080").authority == "api.test:8080"
    six = target_of("http://[::1]:81/v1")
    assert (six.host, six.port, six.authority) == ("::1", 81, "[::1]:81")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/",
        "http://",
        "http://u:p@x/",
        "http://x/a b",
        "http://x/\r\ny",
        "http://ü/",
        "http://x:0/",
        "http://x:99999/",
    ],
)
def test_what_is_no_target(url: str) -> None:
    """A URL that cannot be sent as it stands is refused before a request is made of it."""
    with pytest.raises(ValueError):
        target_of(url)
