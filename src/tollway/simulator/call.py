"""One call from its request to its row in the ledger: parsed, planned, answered whole or streamed, possibly ill."""

import asyncio
import math
import time
from typing import Protocol

from tollway.simulator.desk import Desk, Plan, pieces
from tollway.simulator.faults import Fault
from tollway.simulator.ledger import Entry
from tollway.simulator.neutral import Ask, BadAsk, ErrorKind, Wire

STATUS_CANCELLED = 499
_TICK_S = 0.01
_PIECES_AT_ONCE = 4
_PIECES_A_TICK_MAX = 2000
_JSON_TYPE = b"content-type: application/json\r\n"
_STREAM_TYPE = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
_GARBAGE = (
    b'{"id":"garbage","choices":[{"message":{"content":"this answer ends in the mid',
    b"<html><body><h1>It works!</h1></body></html>",
    b'{"unexpected":[1,2,3]}',
)
_GARBAGE_EVENT = b'data: {"id":"garbage","choices":[{"delta":\n\n'


class Line(Protocol):
    """What a call needs of the connection it came on."""

    desk: Desk
    loop: asyncio.AbstractEventLoop
    writable: bool

    def head(self, status: int, headers: bytes) -> bytes:
        """Status line and headers, but for the one that tells the length and the empty line."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Send a whole answer; the call is over."""

    def done(self) -> None:
        """The answer is sent; the call is over."""

    def close(self) -> None:
        """Close the connection after what is sent."""

    def release(self) -> None:
        """The call is in the ledger: the loss of the connection is no news to it any more."""


class Call:
    """A call under way on a connection."""

    __slots__ = (
        "_ask", "_at", "_connection", "_entry", "_n", "_pieces", "_plan", "_sent", "_since", "_stop_at", "_timer",
        "_wire",
    )  # fmt: skip

    def __init__(self, connection: Line, wire: Wire, call_id: bytes, at: float) -> None:
        now = time.monotonic()
        self._connection = connection
        self._wire = wire
        self._at = at
        self._entry = Entry(call_id, "", time.time() - (now - at))
        self._timer: asyncio.TimerHandle | None = None
        self._n = connection.desk.next_number()
        self._ask: Ask
        self._plan: Plan
        self._pieces: list[str] | None = None
        self._sent = 0
        self._stop_at = 0
        self._since = 0.0
        connection.desk.ledger.in_flight += 1

    def begin(self, body: bytes) -> None:
        """Read the request, decide on it, and answer now or after its latency."""
        try:
            ask = self._ask = self._wire.parse(body)
            self._entry.model = ask.model
            plan = self._plan = self._connection.desk.plan(ask, self._n, time.monotonic())
        except BadAsk as error:
            self._entry.model = error.model
            self._entry.status = 400
            self._record()
            body = self._wire.error("bad_request", error.message, error.field)
            self._connection.respond(400, _JSON_TYPE + self._wire.headers(self._n), body)
            return
        except Exception:
            self._entry.status = 500
            self._record()
            raise
        if plan.delay_s > 0:
            self._timer = self._connection.loop.call_later(plan.delay_s, self._answer)
        else:
            self._answer()

    def abandon(self) -> None:
        """The connection is gone: stop, and write down how far it came."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._bill(self._share())
        self._entry.status = STATUS_CANCELLED
        self._entry.fault = Fault.CANCELLED
        self._record()

    def go_on(self) -> None:
        """The connection can take more: go on with a stream that had to pause."""
        if self._pieces is not None and self._timer is None:
            self._tick()

    def _answer(self) -> None:
        self._timer = None
        plan = self._plan
        if plan.answer is None:
            self._fail()
        elif self._ask.stream:
            self._open_stream()
        elif plan.fault is Fault.CUT:
            self._cut_whole()
        else:
            self._finish()
            if plan.fault is Fault.GARBAGE:
                body = _GARBAGE[self._n % len(_GARBAGE)]
            else:
                body = self._wire.whole(self._ask, plan.answer)
            self._connection.respond(200, _JSON_TYPE + self._headers(), body)

    def _fail(self) -> None:
        plan = self._plan
        self._finish()
        headers = _JSON_TYPE + self._headers()
        if plan.retry_after_s < math.inf:
            wait_s = plan.retry_after_s
            headers += b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (math.ceil(wait_s), math.ceil(wait_s * 1000))
        kind: ErrorKind = "rate_limited" if plan.status == 429 else "server_error"
        self._connection.respond(plan.status, headers, self._wire.error(kind, plan.message))

    def _cut_whole(self) -> None:
        answer = self._plan.answer
        assert answer is not None
        body = self._wire.whole(self._ask, answer)
        half = body[: len(body) // 2]
        connection = self._connection
        self._finish(share=0.5)
        head = connection.head(200, _JSON_TYPE + self._headers())
        connection.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), half))
        connection.close()

    def _open_stream(self) -> None:
        answer, plan = self._plan.answer, self._plan
        assert answer is not None
        connection = self._connection
        self._pieces = pieces(answer, self._ask.schema is not None)
        self._stop_at = len(self._pieces) // 2 if plan.fault is Fault.CUT else len(self._pieces)
        self._since = time.monotonic()
        head = connection.head(200, _STREAM_TYPE + self._headers())
        opening = _framed(self._wire.opening(self._ask, answer))
        connection.write(b"%btransfer-encoding: chunked\r\n\r\n%b" % (head, opening))
        if plan.fault is Fault.GARBAGE:
            self._finish()
            connection.write(_framed(_GARBAGE_EVENT) + b"0\r\n\r\n")
            connection.done()
        else:
            self._tick()

    def _tick(self) -> None:
        """Write the pieces that are due, and come back for the next ones."""
        self._timer = None
        connection, plan, all_pieces = self._connection, self._plan, self._pieces
        assert all_pieces is not None
        assert plan.answer is not None
        s_per_piece = plan.profile.s_per_token * plan.answer.output_tokens / len(all_pieces)
        due = self._stop_at
        if s_per_piece:
            due = min(due, 1 + int((time.monotonic() - self._since) / s_per_piece))
        due = min(due, self._sent + _PIECES_A_TICK_MAX)
        group = 1 if s_per_piece else _PIECES_AT_ONCE
        frames = []
        while self._sent < due:
            text = "".join(all_pieces[self._sent : min(due, self._sent + group)])
            frames.append(_framed(self._wire.piece(self._ask, plan.answer, text)))
            self._sent = min(due, self._sent + group)
        if self._sent >= self._stop_at:
            self._close_stream(frames)
            return
        if frames:
            connection.write(b"".join(frames))
        if connection.writable:
            wait_s = self._since + self._sent * s_per_piece - time.monotonic()
            self._timer = connection.loop.call_later(max(_TICK_S, wait_s), self._tick)

    def _close_stream(self, frames: list[bytes]) -> None:
        answer, connection = self._plan.answer, self._connection
        assert answer is not None
        cut = self._plan.fault is Fault.CUT
        self._finish(share=self._share())
        if not cut:
            frames.append(_framed(self._wire.closing(self._ask, answer)))
            frames.append(b"0\r\n\r\n")
        connection.write(b"".join(frames))
        if cut:
            connection.close()
        else:
            connection.done()

    def _share(self) -> float:
        """How much of the output was made: of a stream what is sent, else all."""
        return self._sent / len(self._pieces) if self._pieces else 1.0

    def _headers(self) -> bytes:
        headers = self._wire.headers(self._n)
        if self._plan.gauges is not None:
            headers += self._wire.limit_headers(self._plan.gauges)
        return headers

    def _bill(self, share: float) -> None:
        self._plan.bill(self._entry, share)
        self._plan.correct(self._entry.output_tokens, time.monotonic())

    def _finish(self, share: float = 1.0) -> None:
        self._bill(share)
        self._entry.fault = self._plan.fault
        self._record()

    def _record(self) -> None:
        """Write the row; the call no longer is the connection's."""
        ledger = self._connection.desk.ledger
        self._entry.took_s = time.monotonic() - self._at
        ledger.in_flight -= 1
        ledger.add(self._entry)
        self._connection.release()


def _framed(chunk: bytes) -> bytes:
    """A chunk as HTTP frames it; an empty one would end the answer, and is none."""
    return b"" if not chunk else b"%x\r\n%b\r\n" % (len(chunk), chunk)
