"""One client's connection: HTTP/1.1 parsed as it comes, calls answered in order by timers, no task for any of them.

Pipelined requests wait their turn. A client that leaves is noticed, and its call written to the ledger as cancelled.
"""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass

import httptools

from tollway.simulator.call import Call
from tollway.simulator.control import control
from tollway.simulator.desk import Desk
from tollway.simulator.neutral import ErrorKind
from tollway.simulator.wires import DEFAULT_WIRE, wire_at

BODY_BYTES_MAX = 16 * 1024 * 1024
HEAD_BYTES_MAX = 64 * 1024
PIPELINED_MAX = 64

_log = logging.getLogger(__name__)
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Content Too Large",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
}
_STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, reason) for status, reason in _REASONS.items()}
JSON_TYPE = b"content-type: application/json\r\n"


@dataclass(slots=True)
class Request:
    """A whole request. `keep_alive` says whether the connection outlives its answer."""

    method: bytes
    url: bytes
    call_id: bytes
    body: bytes
    keep_alive: bool
    at: float


class Connection(asyncio.Protocol):
    """A client's connection, from accept to loss."""

    def __init__(self, desk: Desk, connections: set["Connection"]) -> None:
        self.desk = desk
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.writable = True
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._call: Call | None = None
        self._answering: Request | None = None
        self._closing = False
        self._reading = True
        self._draining = False
        self._head_bytes = 0
        self._in_head = True
        self.on_message_begin()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._closing = True
        self._waiting.clear()
        self._abandon()
        del self._parser  # breaks the cycle of parser and protocol

    def pause_writing(self) -> None:
        self.writable = False
        self._regulate()

    def resume_writing(self) -> None:
        self.writable = True
        self._regulate()
        if self._call is not None:
            self._call.go_on()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "This server upgrades to no other protocol.")
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserCallbackError):
                _log.error("answering a request failed", exc_info=error.__context__)
                self.transport.abort()
                return
            self._refuse(400, "This is not HTTP/1.1.")
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(431, "The header is too large.")

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._url = b""
        self._call_id = b""
        self._expects = False
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        length = len(name)
        if length == 17 and name.lower() == b"x-tollway-call-id":
            self._call_id = value[:200]
        elif length == 6 and name.lower() == b"expect":
            self._expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        if self._expects and not self._answering and not self._closing:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES_MAX:
            self._body.clear()
            self._refuse(413, f"The body is larger than {BODY_BYTES_MAX} bytes.")
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._closing:
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        parser = self._parser
        request = Request(
            parser.get_method(), self._url, self._call_id, body, parser.should_keep_alive(), time.monotonic()
        )
        if self._answering is None:
            self._answer(request)
            return
        self._waiting.append(request)
        self._regulate()

    # What the answers call.

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Write a whole answer and go on to the next request."""
        self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (self.head(status, headers), len(body), body))
        self.done()

    def write(self, data: bytes) -> None:
        """Send part of an answer."""
        self.transport.write(data)

    def release(self) -> None:
        """The current call is in the ledger: it need not hear of the connection's loss."""
        self._call = None

    def head(self, status: int, headers: bytes) -> bytes:
        """The status line and headers of an answer, but for the one that tells its length and the empty line."""
        keep = self._answering is not None and self._answering.keep_alive and not self._closing
        return _STATUS_LINES[status] + headers + (b"" if keep else b"connection: close\r\n")

    def done(self) -> None:
        """The current answer is written: go on to the next request, or close."""
        request, self._answering = self._answering, None
        if self._closing or request is None or not request.keep_alive:
            self.close()
        elif self._waiting and not self._draining:
            self._drain()

    def _drain(self) -> None:
        """Answer waiting requests until one takes time; a loop, for each answer leads back to `done`."""
        self._draining = True
        while self._waiting and self._answering is None:
            self._answer(self._waiting.popleft())
        self._draining = False
        self._regulate()

    def _regulate(self) -> None:
        """Read on only while answers flow and few requests wait: a client that does not read fills no memory."""
        wanted = self.writable and len(self._waiting) < PIPELINED_MAX
        if wanted == self._reading or self._closing:
            return
        self._reading = wanted
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def close(self) -> None:
        """Close after what is written; a call under way is abandoned, requests still waiting are dropped."""
        self._closing = True
        self._waiting.clear()
        self._abandon()
        self.transport.close()

    def _abandon(self) -> None:
        if self._call is not None:
            self._call.abandon()
            self._call = None

    def _answer(self, request: Request) -> None:
        self._answering = request
        path, _, query = request.url.partition(b"?")
        wire = wire_at(path) if request.method == b"POST" else None
        if wire is not None:
            self._call = Call(self, wire, request.call_id, request.at)
            self._call.begin(request.body)
            return
        status, body = control(self.desk, request.method, path, query, request.body)
        self.respond(status, JSON_TYPE, body)

    def _refuse(self, status: int, message: str) -> None:
        """Say no to something that is not a request, and close."""
        if self._closing:
            return
        self._closing = True
        if self._answering is None:
            kind: ErrorKind = "too_large" if status == 413 else "bad_request"
            self.respond(status, JSON_TYPE, DEFAULT_WIRE.error(kind, message))
