"""The way out through an HTTP proxy, where the environment asks for one (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY).

This machine's own addresses are never reached through one.
"""

import asyncio
from base64 import b64encode
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from tollway.domain.errors import ConfigError

_HEAD_BYTES_MAX = 16_384


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it is; `authorization` is the value of its header, empty without a password."""

    host: str
    port: int
    authorization: str

    @property
    def authority(self) -> str:
        """Host and port, as said in errors."""
        return f"{self.host}:{self.port}"


def proxy_for(host: str, *, tls: bool) -> Proxy | None:
    """The proxy on the way to a host, None for the straight way. Raises ConfigError for one that cannot be used."""
    scheme = "https" if tls else "http"
    proxies = getproxies_environment()
    url = proxies.get(scheme) or proxies.get("all")
    if not url or _is_local(host) or proxy_bypass_environment(host, proxies):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        raise ConfigError(f"{scheme.upper()}_PROXY", shown, "only a proxy of the form http://host:port can be used")
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + b64encode(pair.encode()).decode()
    return Proxy(parts.hostname, port, authorization)


async def tunnel(loop: asyncio.AbstractEventLoop, proxy: Proxy, authority: str) -> asyncio.Transport:
    """A connection that the proxy passes on to `authority`, byte by byte. Raises OSError."""
    transport, answer = await loop.create_connection(lambda: _Tunnel(loop), proxy.host, proxy.port)
    try:
        secret = f"proxy-authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
        transport.write(f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n{secret}\r\n".encode("latin-1"))
        status = await answer.opened
        if status[9:12] != "200":
            raise OSError(f"the proxy answered {status}")
    except BaseException:
        transport.abort()
        raise
    return transport


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class _Tunnel(asyncio.Protocol):
    """Waits for the proxy's answer to CONNECT: its status line."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.opened: asyncio.Future[str] = loop.create_future()
        self._head = b""

    def data_received(self, data: bytes) -> None:
        """Nothing may follow the head: the provider waits for our TLS hello."""
        self._head += data
        if self.opened.done():
            return
        if self._head.endswith(b"\r\n\r\n"):
            self.opened.set_result(self._head.split(b"\r\n", 1)[0].decode("latin-1")[:100])
        elif b"\r\n\r\n" in self._head or len(self._head) > _HEAD_BYTES_MAX:
            self.opened.set_exception(OSError("the proxy's answer to CONNECT is not one"))

    def connection_lost(self, error: Exception | None) -> None:
        """A close before the answer is a failure."""
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"the proxy hung up: {error or 'no answer to CONNECT'}"))
