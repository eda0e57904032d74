"""One provider's HTTP: a bounded pool, exactly one request a call, and each failure under its own name.

Every LlmError raised here says whether the provider may have billed the call: not before the request was sent, and
always once it was, unless an error status came back. A call that nobody waits for any more is aborted at once.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from tollway.domain.errors import LlmError
from tollway.llm.http.connection import Connection
from tollway.llm.http.dial import target_of
from tollway.llm.http.pool import Pool, PoolOptions
from tollway.llm.http.proxy import proxy_for

_ERROR_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Bounds of a provider's connections. Beyond `connections_max` calls wait up to `connect_timeout_s` for one."""

    connections_max: int = 4096
    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 30.0
    body_bytes_max: int = 16 * 1024 * 1024


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A whole answer: `retry_after_s` is what its headers ask for, if they do; `fields` are those headers, in small."""

    status: int
    body: bytes
    retry_after_s: float | None
    fields: dict[bytes, bytes]


class Transport:
    """Posts JSON to one provider. `start` before the first call, `stop` may be called twice."""

    def __init__(self, url: str, headers: dict[str, str], options: TransportOptions) -> None:
        """Raises ValueError for a URL or header that cannot be sent, ConfigError for a proxy that cannot be used."""
        target = self._target = target_of(url)
        proxy = self._proxy = proxy_for(target.host, tls=target.tls)
        self._options = options
        self._pool: Pool | None = None
        fields = {
            "host": target.authority,
            "user-agent": "tollway",
            "accept": "*/*",
            "accept-encoding": "identity",
            "content-type": "application/json",
            **headers,
        }
        self._before_path = ""
        if proxy is not None and not target.tls:
            self._before_path = f"http://{target.authority}"
            if proxy.authorization:
                fields["proxy-authorization"] = proxy.authorization
        if any("\r" in text or "\n" in text for item in fields.items() for text in item):
            raise ValueError("a header holds a line break")
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._lines = f" HTTP/1.1\r\n{lines}x-tollway-call-id: "
        self._heads = {"": self._head(target.path)}

    async def start(self) -> None:
        """Make the pool; no connection is opened yet."""
        if self._pool is None:
            options = self._options
            bounds = PoolOptions(options.connections_max, options.connect_timeout_s, options.idle_timeout_s)
            self._pool = Pool(self._target, self._proxy, bounds)

    async def stop(self) -> None:
        """Close every connection; calls in flight fail with `connection`."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    async def post(
        self, body: bytes, call_id: str, timeout_s: float, first_byte_s: float | None, path: str = ""
    ) -> Answer:
        """Send and read the whole answer, whatever its status. Times in seconds; `path` as of `open`."""
        exchange = self.open(body, call_id, timeout_s, path)
        try:
            return await exchange.whole(first_byte_s)
        finally:
            exchange.abort()

    def open(self, body: bytes, call_id: str, timeout_s: float, path: str = "") -> "Exchange":
        """An exchange not yet begun. `path`, with its query, is another than the URL's; a provider has few of them."""
        if self._pool is None:
            raise RuntimeError("the transport is not started")
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = self._head(path)
        request = b"%b%b\r\ncontent-length: %d\r\n\r\n%b" % (head, call_id.encode(), len(body), body)
        return Exchange(self._pool, request, timeout_s, self._options.body_bytes_max)

    def _head(self, path: str) -> bytes:
        return f"POST {self._before_path}{path}{self._lines}".encode("latin-1")


class Exchange:
    """One request and its answer as it arrives. Always `close` it: that ends the request, whole or not."""

    __slots__ = (
        "_body_bytes_max",
        "_connection",
        "_error",
        "_over",
        "_patience",
        "_pieces",
        "_pool",
        "_request",
        "_size",
        "_timeout_s",
        "_total",
        "_waiter",
        "_wants_all",
        "fields",
        "retry_after_s",
        "status",
        "unread",
    )

    def __init__(self, pool: Pool, request: bytes, timeout_s: float, body_bytes_max: int) -> None:
        self.status = 0
        self.fields: dict[bytes, bytes] = {}
        self.retry_after_s: float | None = None
        self._pool = pool
        self._request = request
        self._timeout_s = timeout_s
        self._body_bytes_max = body_bytes_max
        self._connection: Connection | None = None
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self.unread = 0
        self._wants_all = False
        self._over = False
        self._error: LlmError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._total: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None

    async def whole(self, first_byte_s: float | None) -> Answer:
        """Send the request, and wait for the whole answer, its first byte at most `first_byte_s` away."""
        self._wants_all = True
        await self._begin(first_byte_s)
        if not self._over:
            self._waiter = self._pool.loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return Answer(self.status, body, self.retry_after_s, self.fields)

    async def first(self, first_byte_s: float | None) -> bytes | None:
        """Send the request and wait for the first piece of the answer's body, at most `first_byte_s`."""
        await self._begin(first_byte_s)
        return await self.read()

    async def read(self) -> bytes | None:
        """The next piece of the body, None at its end."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._over:
                return None
            await self._wait()
        piece = self._pieces.popleft()
        self.unread -= len(piece)
        if self._connection is not None:
            self._connection.read_on(self.unread)
        return piece

    async def read_all(self, first: bytes | None) -> bytes:
        """The rest of the body after its first piece. Of an error's body little more than 64 KiB are read."""
        parts = []
        while first is not None:
            parts.append(first)
            if self.status >= 400 and self._size > _ERROR_BYTES_MAX:
                break
            first = await self.read()
        return b"".join(parts)

    async def close(self) -> None:
        """End the exchange; one that is not over is aborted, connection and all."""
        self.abort()

    def abort(self) -> None:
        """`close`, for who cannot wait."""
        if not self._over:
            self._end()
            self._wake()

    # connection.Listener

    def headers(self, status: int, fields: dict[bytes, bytes]) -> None:
        """The answer began."""
        self.status = status
        self.fields = fields
        if status >= 300:
            self.retry_after_s = retry_after(fields)

    def data(self, piece: bytes) -> None:
        """A piece of the body."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._pieces.append(piece)
        self._size += len(piece)
        if self._wants_all:
            if self.status >= 400 and self._size > _ERROR_BYTES_MAX:
                self._end()
                self._wake()
            elif self._size > self._body_bytes_max:
                self._fail(
                    LlmError("bad_response", f"the answer is larger than {self._body_bytes_max} bytes").charged()
                )
            return
        self.unread += len(piece)
        if self._connection is not None:
            self._connection.read_on(self.unread)
        self._wake()

    def done(self) -> None:
        """The answer is whole; its connection went home."""
        self._connection = None
        self._end()
        self._wake()

    def failed(self, code: str, reason: str) -> None:
        """The connection broke."""
        self._connection = None
        self._fail(self._charged(LlmError(code, f"the connection broke: {reason}")))

    async def _begin(self, first_byte_s: float | None) -> None:
        pool, loop = self._pool, self._pool.loop
        due_at = loop.time() + self._timeout_s
        connection = pool.take() or await pool.acquire(self._timeout_s)
        if self._over:
            pool.came_free(connection)
            raise LlmError("connection", "the call was closed before it began")
        self._total = loop.call_at(due_at, self._time_out)
        if first_byte_s is not None and first_byte_s < self._timeout_s:
            self._patience = loop.call_later(first_byte_s, self._lose_patience, first_byte_s)
        self._connection = connection
        connection.send(self._request, self)

    async def _wait(self) -> None:
        self._waiter = self._pool.loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _end(self) -> None:
        self._over = True
        for timer in (self._total, self._patience):
            if timer is not None:
                timer.cancel()
        self._total = self._patience = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _fail(self, error: LlmError) -> None:
        self._error = error
        self._end()
        self._wake()

    def _time_out(self) -> None:
        self._fail(self._charged(LlmError("timeout_total", f"no whole answer within {self._timeout_s:g} s")))

    def _lose_patience(self, first_byte_s: float) -> None:
        message = f"the provider sent nothing within {first_byte_s:g} s"
        self._fail(self._charged(LlmError("timeout_first_byte", message)))

    def _charged(self, error: LlmError) -> LlmError:
        """The request was sent; only an error status says that nothing is charged."""
        return error if self.status >= 400 else error.charged()


def retry_after(fields: Mapping[bytes, bytes]) -> float | None:
    """Seconds the headers ask to wait: `retry-after-ms`, else `retry-after`; None for neither, a date or nonsense."""
    for name, unit_s in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        text = fields.get(name)
        if text is None:
            continue
        try:
            wait_s = float(text) * unit_s
        except ValueError:
            continue
        if 0 <= wait_s < 86_400:
            return wait_s
    return None
