"""uvicorn's protocol with a short way for the two hot routes, beside that of the wire: answered from the parser's
callbacks, without a task, an ASGI message or a framework.

Only the common shape takes it (HTTP/1.1, nothing pipelined before it, a declared small body, no `Expect`, no upgrade,
room to write); everything else goes through uvicorn and `Api`, which answer the same. The stand-in `HotCycle` carries
what uvicorn's own callbacks (body, pipelining, disconnect, shutdown) look at, so they work unchanged.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from uuid import UUID

from tollway.domain.errors import Problem
from tollway.ingress.app import Api
from tollway.ingress.auth import Caller
from tollway.ingress.hot import HEAD_FIELDS, RUN_PATH_CHARS, RUN_PREFIX, RUNS_PATH, Head
from tollway.ingress.problems import Reply, problem_reply
from tollway.ingress.wire.shortcut import STATUS_LINES, WireProtocol
from tollway.record.accept import Accepted, NewRun
from tollway.record.run_document import RunRow

_SUBMIT_URL = RUNS_PATH.encode()
_READ_PREFIX = RUN_PREFIX.encode()
_READ_AT = len(RUN_PREFIX)


class _Deaf:
    """Takes the place of the event that tells an ASGI app of more body: nobody waits for it here."""

    def set(self) -> None:
        """Nobody to tell."""


_DEAF = _Deaf()


class HotCycle:
    """One request on the short way, in the form in which uvicorn's callbacks know requests."""

    __slots__ = (
        "body",
        "disconnected",
        "head",
        "keep_alive",
        "message_event",
        "more_body",
        "read",
        "response_complete",
    )

    def __init__(self, head: Head, read: str | None, keep_alive: bool) -> None:
        self.head = head
        self.read = read
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.more_body = True
        self.response_complete = False
        self.disconnected = False
        self.message_event = _DEAF


class HotProtocol(WireProtocol):
    """`http=` class of the API's uvicorn. The app must be an `Api`."""

    def on_headers_complete(self) -> None:
        """Take the short way if the request has the common shape."""
        cycle = self._hot_cycle()
        if cycle is None:
            super().on_headers_complete()
        else:
            self.cycle = cycle

    def on_message_complete(self) -> None:
        """The request is whole: on the short way, answer it."""
        cycle = self.cycle
        if type(cycle) is not HotCycle:
            super().on_message_complete()
        elif cycle.more_body:
            cycle.more_body = False
            if cycle.read is None:
                self._submit(cycle)
            else:
                self._look_up(cycle, cycle.read)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused in the form of every other refusal, and the connection is closed."""
        detail = "This is not an HTTP/1.1 request as RFC 9112 has it; look at its request line and its headers."
        reply = problem_reply(Problem("invalid_request", detail))
        parts = [STATUS_LINES[HTTPStatus.BAD_REQUEST]]
        for name, value in reply.headers:
            parts += (name, b": ", value, b"\r\n")
        self.transport.write(b"".join((*parts, b"connection: close\r\n\r\n", reply.body)))
        self.transport.close()

    def _hot_cycle(self) -> HotCycle | None:
        url = self.url
        reads = len(url) == RUN_PATH_CHARS and url.startswith(_READ_PREFIX)
        if (not reads and url != _SUBMIT_URL) or self.app.services.options.wire_only:
            return None
        head = Head()
        if not self.common_shape(b"GET" if reads else b"POST", head, HEAD_FIELDS, b"0" if reads else b""):
            return None
        if not head.plain:
            return None
        return HotCycle(head, url[_READ_AT:].decode("latin-1") if reads else None, self.parser.should_keep_alive())

    def _submit(self, cycle: HotCycle) -> None:
        api: Api = self.app
        try:
            if len(cycle.body) > api.services.options.body_bytes_max:
                raise api.too_large()
            asked = api.context.hot.admit(cycle.head, bytes(cycle.body))
            run = asked.run
            future = api.context.admission.accept(asked)
        except Exception as error:
            self.whole(cycle, api.refusal(error))
            return
        future.add_done_callback(lambda done: self._finish(cycle, lambda: self._accepted(cycle, run, done)))

    def _accepted(self, cycle: HotCycle, run: NewRun, done: "asyncio.Future[Accepted]") -> Reply | None:
        api: Api = self.app
        accepted = done.result()
        if not accepted.replayed:
            api.context.told(run, accepted)
            if not accepted.ended:
                return api.context.hot.accepted(run, accepted)
            ended = api.services.reads.run(run.id)
            ended.add_done_callback(
                lambda row: self._finish(cycle, lambda: api.context.hot.ended(run.id, row.result()))
            )
            return None
        reading = api.services.reads.run(accepted.run_id)
        reading.add_done_callback(
            lambda row: self._finish(cycle, lambda: api.context.hot.repeated(accepted.run_id, row.result()))
        )
        return None

    def _look_up(self, cycle: HotCycle, run: str) -> None:
        api: Api = self.app
        try:
            caller, run_id = api.context.hot.look_up(cycle.head, run)
            future = api.services.reads.run(run_id)
        except Exception as error:
            self.whole(cycle, api.refusal(error))
            return
        future.add_done_callback(lambda done: self._finish(cycle, lambda: self._found(caller, run_id, done)))

    def _found(self, caller: Caller, run_id: UUID, done: "asyncio.Future[RunRow | None]") -> Reply:
        api: Api = self.app
        return api.context.hot.found(caller, run_id, done.result())

    def _finish(self, cycle: HotCycle, answer: Callable[[], Reply | None]) -> None:
        """Write what `answer` gives, or the refusal it raises; None is an answer that comes later."""
        api: Api = self.app
        try:
            reply = answer()
        except (Exception, asyncio.CancelledError) as error:
            reply = api.refusal(error)
        if reply is not None:
            self.whole(cycle, reply)
