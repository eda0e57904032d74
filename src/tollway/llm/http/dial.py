"""Opens a connection to where a provider is: plain or TLS with its certificate checked, straight or through a proxy."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

from tollway.domain.errors import LlmError
from tollway.llm.http.connection import Connection
from tollway.llm.http.proxy import Proxy, tunnel


@dataclass(frozen=True, slots=True)
class Target:
    """Where a provider is: `path` with its query, `tls` for https."""

    host: str
    port: int
    path: str
    tls: bool

    @property
    def name(self) -> str:
        """The host as URLs write it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def authority(self) -> str:
        """The `host` header."""
        return self.name if self.port == (443 if self.tls else 80) else f"{self.name}:{self.port}"


def target_of(url: str) -> Target:
    """The target of an http(s) URL. Raises ValueError for any other, and for one that holds a user or odd signs."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ValueError(f"not a URL as it is sent (escape spaces and other signs): {url!r}")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http(s) URL: {url}")
    if "@" in parts.netloc:
        raise ValueError("a URL of a provider holds no user and password: use its key")
    if parts.port == 0:
        raise ValueError("port 0 is no port to connect to")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.hostname, parts.port or (443 if tls else 80), path, tls)


@cache
def tls_context() -> ssl.SSLContext:
    """This process' trust: the system's certificates, or those SSL_CERT_FILE and SSL_CERT_DIR name."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def dial(target: Target, proxy: Proxy | None, make: Callable[[], Connection]) -> Connection:
    """An open connection. Raises LlmError `connection`; the caller bounds the time."""
    loop = asyncio.get_running_loop()
    where = target.authority if proxy is None else f"{target.authority} through the proxy {proxy.authority}"
    try:
        if proxy is None:
            context = tls_context() if target.tls else None
            name = target.host if target.tls else None
            _, connection = await loop.create_connection(
                make, target.host, target.port, ssl=context, server_hostname=name
            )
            return connection
        if not target.tls:
            return (await loop.create_connection(make, proxy.host, proxy.port))[1]
        raw = await tunnel(loop, proxy, f"{target.name}:{target.port}")
        try:
            connection = make()
            transport = await loop.start_tls(raw, connection, tls_context(), server_hostname=target.host)
        except BaseException:
            raw.abort()
            raise
        if transport is not None:
            connection.connection_made(transport)
        return connection
    except ssl.SSLCertVerificationError as error:
        why = f"its certificate is not trusted: {error.verify_message}"
        remedy = "if its authority is your own, name its file in SSL_CERT_FILE"
        raise LlmError("connection", f"cannot connect to {where}: {why} ({remedy})") from error
    except (OSError, UnicodeError) as error:
        raise LlmError("connection", f"cannot connect to {where}: {error}") from error
