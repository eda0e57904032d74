"""One connection to a provider: writes a request at once, feeds what comes back to the exchange that waits for it."""

import asyncio
from typing import Any, Protocol, cast

import httptools

_KEEP_READING_BYTES = 262_144
_OVERHEAD_BYTES_MAX = 131_072


class Listener(Protocol):
    """What a request's answer is told to. After `done` or `failed` nothing more comes."""

    def headers(self, status: int, fields: dict[bytes, bytes]) -> None:
        """The answer began."""

    def data(self, piece: bytes) -> None:
        """A piece of its body."""

    def done(self) -> None:
        """It is whole."""

    def failed(self, code: str, reason: str) -> None:
        """It will never be: `connection` before it began, `bad_response` if it is cut or not HTTP."""


class Home(Protocol):
    """Where connections live between requests."""

    def came_free(self, connection: "Connection") -> None:
        """The answer is whole and the connection may be used again."""

    def lost(self, connection: "Connection") -> None:
        """It is closed."""


class Connection(asyncio.Protocol):
    """One request at a time: `send` only while `usable`. An answer followed by more than was asked for ends it."""

    __slots__ = (
        "_complete",
        "_fields",
        "_home",
        "_listener",
        "_overhead",
        "_parser",
        "_paused",
        "_reusable",
        "_status",
        "_transport",
        "_until_close",
    )

    def __init__(self, home: Home) -> None:
        self._home = home
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._listener: Listener | None = None
        self._fields: dict[bytes, bytes] = {}
        self._status = 0
        self._overhead = 0
        self._until_close = False
        self._complete = False
        self._reusable = False
        self._paused = False

    @property
    def usable(self) -> bool:
        """Whether a request can be sent now."""
        return self._listener is None and self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, listener: Listener) -> None:
        """Write a whole request; the listener is told of its answer."""
        assert self._transport is not None
        self._listener = listener
        self._status = self._overhead = 0
        self._complete = self._until_close = False
        self._transport.write(request)

    def abort(self) -> None:
        """Close at once; a listener is told nothing any more."""
        self._listener = None
        if self._transport is not None:
            self._transport.abort()

    def close_down(self) -> None:
        """Close at once; a listener hears that the transport stopped."""
        self._fail("connection", "the transport is stopped")

    def read_on(self, unread_bytes: int) -> None:
        """Back pressure: reading stops while too much is unread."""
        if self._transport is None or self._transport.is_closing():
            return
        if unread_bytes > _KEEP_READING_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        elif unread_bytes <= _KEEP_READING_BYTES and self._paused:
            self._paused = False
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        """Bytes came; bytes that nobody asked for close the connection."""
        if self._listener is None:
            self.abort()
            return
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:
                self._fail("bad_response", f"not an HTTP answer: {error}")
                return
            self._reusable = False
        if self._complete:
            self._finish()
        elif self._overhead > _OVERHEAD_BYTES_MAX:
            self._fail("bad_response", f"more than {_OVERHEAD_BYTES_MAX} bytes of headers")

    def eof_received(self) -> None:
        """The other side will send no more; the transport closes itself."""

    def connection_lost(self, error: Exception | None) -> None:
        """It is closed: an answer that ends with the connection is whole, any other is cut."""
        self._transport = self._parser = None
        if self._listener is not None:
            if self._until_close and error is None:
                self._finish()
            elif self._status >= 200:
                self._fail("bad_response", f"cut within the answer: {error or 'closed by the provider'}")
            else:
                self._fail("connection", str(error or "closed by the provider before it answered"))
        self._home.lost(self)

    # httptools callbacks

    def on_message_begin(self) -> None:
        """An answer, perhaps after interim ones; after the whole one it is more than was asked for."""
        if self._complete:
            self._reusable = False
        else:
            self._fields = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field; trailers are passed over."""
        if self._status < 200:
            self._fields[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Status and headers are in; interim answers (1xx) are passed over."""
        if self._complete:
            return
        self._status = self._parser.get_status_code()
        if self._status < 200:
            return
        fields = self._fields
        self._overhead = 0
        self._until_close = b"content-length" not in fields and b"chunked" not in fields.get(b"transfer-encoding", b"")
        if self._listener is not None:
            self._listener.headers(self._status, fields)

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        self._overhead = 0
        if self._listener is not None and not self._complete:
            self._listener.data(piece)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was an interim one."""
        if self._status >= 200 and not self._complete:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()

    def _finish(self) -> None:
        listener, self._listener = self._listener, None
        if self._transport is not None:
            if self._reusable and not self._transport.is_closing():
                self.read_on(0)
                self._home.came_free(self)
            else:
                self._transport.abort()
        if listener is not None:
            listener.done()

    def _fail(self, code: str, reason: str) -> None:
        listener, self._listener = self._listener, None
        if self._transport is not None:
            self._transport.abort()
        if listener is not None:
            listener.failed(code, reason)
