"""The connections to one provider: bounded, used again newest first, closed when idle for long."""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

from tollway.domain.errors import LlmError
from tollway.llm.http.connection import Connection


@dataclass(frozen=True, slots=True)
class Target:
    """Where a provider is: `path` with its query, `tls` for https."""

    host: str
    port: int
    path: str
    tls: bool

    @property
    def authority(self) -> str:
        """The `host` header."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"


def target_of(url: str) -> Target:
    """The target of an http(s) URL. Raises ValueError for any other."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http(s) URL: {url}")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.hostname, parts.port or (443 if tls else 80), path, tls)


@cache
def tls_context() -> ssl.SSLContext:
    """This process' trust: the system's certificates, or those SSL_CERT_FILE names."""
    return ssl.create_default_context()


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """Bounds; beyond `connections_max` callers wait for one within their connect time."""

    connections_max: int
    connect_timeout_s: float
    idle_timeout_s: float


class Pool:
    """Hands out connections that are open and free."""

    def __init__(self, target: Target, options: PoolOptions) -> None:
        self._target = target
        self._options = options
        self.loop = asyncio.get_running_loop()
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self) -> Connection | None:
        """A free connection, the one used last, or None when one must be opened or waited for."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def acquire(self, timeout_s: float) -> Connection:
        """Open a connection, or wait for one to come free. Raises LlmError, unbilled."""
        timeout_s = min(timeout_s, self._options.connect_timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    connection = self.take()
                    if connection is not None:
                        return connection
                    if len(self._all) + self._opening < self._options.connections_max:
                        return await self._open()
                    connection = await self._wait()
                    if connection is not None and connection.usable:
                        return connection
        except TimeoutError:
            raise LlmError("timeout_connect", f"no connection within {timeout_s:g} s") from None

    def close(self) -> None:
        """Close every connection; exchanges under way fail."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._all):
            connection.close_down()
        self._idle.clear()

    def came_free(self, connection: Connection) -> None:
        """For connections: the answer is whole."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        connection.idle_since = self.loop.time()
        self._idle.append(connection)
        if self._sweep is None and not self._closed:
            self._sweep = self.loop.call_later(self._options.idle_timeout_s, self._close_idle)

    def lost(self, connection: Connection) -> None:
        """For connections: it is closed, so another may be opened."""
        self._all.discard(connection)
        if self._idle and connection in self._idle:
            self._idle.remove(connection)
        self._wake_one()

    async def _open(self) -> Connection:
        target = self._target
        self._opening += 1
        try:
            _, connection = await self.loop.create_connection(
                lambda: Connection(self),
                target.host,
                target.port,
                ssl=tls_context() if target.tls else None,
                server_hostname=target.host if target.tls else None,
            )
        except OSError as error:
            raise LlmError("connection", f"cannot connect to {target.authority}: {error}") from error
        finally:
            self._opening -= 1
        if self._closed:
            connection.abort()
            raise LlmError("connection", "the transport is stopped")
        self._all.add(connection)
        return connection

    async def _wait(self) -> Connection | None:
        waiter: asyncio.Future[Connection | None] = self.loop.create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                given = waiter.result()
                if given is not None and given.usable:
                    self.came_free(given)
                else:
                    self._wake_one()
            raise

    def _wake_one(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _close_idle(self) -> None:
        self._sweep = None
        before = self.loop.time() - self._options.idle_timeout_s
        while self._idle and self._idle[0].idle_since <= before:
            self._idle.popleft().abort()
        if self._idle and not self._closed:
            wait_s = self._idle[0].idle_since - before
            self._sweep = self.loop.call_later(wait_s, self._close_idle)
