"""uvicorn's protocol with a short way for calls over the wire: one task each, no ASGI messages, whole answers in one
write.

Only the common shape takes it (HTTP/1.1, nothing pipelined before it, a declared body that is not large, no `Expect`,
no upgrade); everything else goes through uvicorn and `WireApp`, which answer the same. `WireCycle` carries what
uvicorn's own callbacks (body, pipelining, disconnect, shutdown) look at. The app has a `door`, None if the wire is off.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tollway.ingress.problems import Headers, Reply, too_large
from tollway.ingress.wire.desk import WIRE_FIELDS, WireHead
from tollway.ingress.wire.door import FORMS, Door, Order, Streamed
from tollway.ingress.wire.faults import cut_off

PATHS = {path.encode(): path for path in FORMS}
_ELSEWHERE = frozenset((b"transfer-encoding", b"expect", b"upgrade"))
STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


class WireCycle:
    """One call on the short way. uvicorn sets `disconnected`, and then the `message_event`: this very object."""

    __slots__ = (
        "body",
        "disconnected",
        "head",
        "keep_alive",
        "more_body",
        "path",
        "response_complete",
        "task",
    )

    def __init__(self, path: str, head: WireHead, *, keep_alive: bool) -> None:
        self.path = path
        self.head = head
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.more_body = True
        self.response_complete = False
        self.disconnected = False
        self.task: asyncio.Task[None] | None = None

    @property
    def message_event(self) -> "WireCycle":
        """Who hears of news."""
        return self

    def set(self) -> None:
        """Something happened: if the client is gone, so is its call."""
        if self.disconnected and self.task is not None:
            self.task.cancel()


class WireProtocol(HttpToolsProtocol):
    """`http=` class of a uvicorn that serves the wire."""

    app: Any
    cycle: Any
    headers: list[tuple[bytes, bytes]]
    url: bytes

    def on_headers_complete(self) -> None:
        """Take the short way if the request has the common shape."""
        cycle = self.wire_cycle()
        if cycle is None:
            super().on_headers_complete()
        else:
            self.cycle = cycle

    def on_message_complete(self) -> None:
        """The request is whole: on the short way, begin to answer it."""
        cycle = self.cycle
        if type(cycle) is not WireCycle:
            super().on_message_complete()
        elif cycle.more_body:
            cycle.more_body = False
            self._ask(cycle, self.app.door)

    def wire_cycle(self) -> WireCycle | None:
        """The cycle of a call that may take the short way."""
        path, head = PATHS.get(self.url), WireHead()
        if path is None or self.app.door is None or not self.common_shape(b"POST", head, WIRE_FIELDS):
            return None
        return WireCycle(path, head, keep_alive=self.parser.should_keep_alive())

    def common_shape(self, method: bytes, head: object, fields: Mapping[bytes, str], length: bytes = b"") -> bool:
        """Whether the request may take a short way; the headers of `fields` are noted on the head.

        `length` is that of the body when no header says it.
        """
        before, parser = self.cycle, self.parser
        if (before is not None and not before.response_complete) or self.flow.write_paused:
            return False
        if parser.get_method() != method or parser.get_http_version() != "1.1":
            return False
        for name, value in self.headers:
            field = fields.get(name)
            if field is not None:
                setattr(head, field, value)
            elif name == b"content-length":
                length = value
            elif name in _ELSEWHERE:
                return False
        return length.isdigit() and len(length) <= 6 and int(length) <= HIGH_WATER_LIMIT

    def _ask(self, cycle: WireCycle, door: Door) -> None:
        try:
            if len(cycle.body) > door.options.body_bytes_max:
                raise too_large(door.options.body_bytes_max)
            order = door.take(cycle.path, cycle.head, bytes(cycle.body))
        except Exception as error:
            self.whole(cycle, door.refusal(error, FORMS[cycle.path]))
            return
        work: Coroutine[Any, Any, None]
        work = self._stream(cycle, door, order) if order.request.stream else self._answer(cycle, door, order)
        cycle.task = self.loop.create_task(work)
        self.tasks.add(cycle.task)
        cycle.task.add_done_callback(self.tasks.discard)

    async def _answer(self, cycle: WireCycle, door: Door, order: Order) -> None:
        try:
            reply = await door.answer(order)
        except asyncio.CancelledError:  # the client is gone, or the process may wait no longer
            cycle.keep_alive = False
            reply = door.refusal(cut_off(), order.form, order.account)
        except BaseException:
            cycle.response_complete = True
            self.transport.close()
            raise
        self.whole(cycle, reply)

    async def _stream(self, cycle: WireCycle, door: Door, order: Order) -> None:
        try:
            answer = await door.stream(order)
            if not isinstance(answer, Streamed):
                self.whole(cycle, answer)
                return
            headers = [*answer.headers, (b"transfer-encoding", b"chunked")]
            async with aclosing(answer):
                self.transport.write(self._headed(cycle, HTTPStatus.OK, headers))
                async for chunk in answer.chunks:
                    if chunk:
                        self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                    if self.flow.write_paused:
                        await self.flow.drain()
            self._end(cycle, b"0\r\n\r\n")
        except BaseException:
            # Gone, or cut off in the middle: the missing end of the answer tells the client.
            cycle.response_complete = True
            self.transport.close()
            raise

    def whole(self, cycle: Any, reply: Reply) -> None:
        """Write a whole answer."""
        head = self._headed(cycle, HTTPStatus(reply.status), reply.headers)
        self._end(cycle, head + reply.body)

    def _headed(self, cycle: Any, status: HTTPStatus, headers: Headers) -> bytes:
        parts = [STATUS_LINES[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(parts)

    def _end(self, cycle: Any, last: bytes) -> None:
        """Write the last of an answer, and be ready for the next request."""
        cycle.response_complete = True
        if cycle.disconnected or self.transport.is_closing():
            return
        self.transport.write(last)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()
