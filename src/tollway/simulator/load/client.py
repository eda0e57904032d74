"""One client of the load generator, and the coarse timers all clients share."""

import asyncio
import time
from typing import Protocol, cast

from tollway.simulator.load.wire import Answer, BadAnswer, Requests, read_answer

_TICK_S = 0.004


class Owner(Protocol):
    """Who tells a client what its answers mean."""

    requests: Requests
    stopping: bool

    def submit_answered(self, client: "Client", answer: Answer) -> None:
        """A submit came back."""

    def poll_answered(self, client: "Client", answer: Answer) -> None:
        """A poll came back."""

    def surprise(self, client: "Client", what: str, body: bytes) -> None:
        """Something outside the contract came back."""

    def too_late(self, client: "Client") -> None:
        """The client would submit, but the job is ending."""

    def disconnected(self, client: "Client", cut_submit: bool) -> None:
        """The connection was cut; `cut_submit` says that a submit went unanswered."""

    def reconnect(self, client: "Client") -> None:
        """The connection ended as announced; the client needs another one."""


class Wheel:
    """Timers of one tick's grain: all that is due in a tick is woken by one timer of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: dict[int, list[Client]] = {}
        self._next = int(time.monotonic() / _TICK_S)
        self._handle = loop.call_later(_TICK_S, self._turn)

    def wake(self, client: "Client", after_s: float) -> None:
        """Call `client.act()` after `after_s` seconds, at most one tick late, unless woken for later since."""
        tick = max(int((time.monotonic() + after_s) / _TICK_S) + 1, self._next)
        client.wake_tick = tick
        self._due.setdefault(tick, []).append(client)

    def stop(self) -> None:
        """Wake nobody any more."""
        self._handle.cancel()
        self._due.clear()

    def _turn(self) -> None:
        self._handle = self._loop.call_later(_TICK_S, self._turn)
        now = int(time.monotonic() / _TICK_S)
        while self._next <= now:
            tick = self._next
            self._next += 1
            for client in self._due.pop(tick, ()):
                if client.wake_tick == tick:
                    client.act()


class Client(asyncio.Protocol):
    """One keep-alive connection that sees one run at a time through: submit, poll until final."""

    __slots__ = ("_asked", "_buffer", "_dismissed", "_load", "_transport", "due_at", "run", "wake_tick", "wants_run")

    def __init__(self, load: Owner) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._asked = False
        self._dismissed = False
        self.run: bytes | None = None
        self.wants_run = False
        self.due_at = 0.0
        self.wake_tick = 0

    @property
    def awaits_accept(self) -> bool:
        """Whether a submit is out and unanswered."""
        return self._asked and self.run is None

    def begin(self, due_at: float) -> None:
        """Submit a run; its accept latency counts from `due_at` (monotonic seconds)."""
        self.wants_run = True
        self.due_at = due_at
        self.act()

    def act(self) -> None:
        """Send what is due; without a connection, `connection_made` calls this again."""
        if self._transport is None or self._asked:
            return
        if self.run is not None:
            request = self._load.requests.poll(self.run)
        elif self.wants_run:
            if self._load.stopping:
                self._load.too_late(self)
                return
            request = self._load.requests.submit()
        else:
            return
        self._asked = True
        self._transport.write(request)

    def close(self) -> None:
        """Hang up, without coming back."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = b""
        self.act()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        cut_submit, self._asked = self.awaits_accept, False
        dismissed, self._dismissed = self._dismissed, False
        if dismissed:
            self._load.reconnect(self)
        else:
            self._load.disconnected(self, cut_submit)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        try:
            answer = read_answer(data)
            if answer is None:
                self._buffer = data
                return
            self._buffer = b""
            if not self._asked or answer.end != len(data):
                raise BadAnswer(f"more was answered than asked: {data[:80]!r}")
            self._asked = False
            if answer.close:
                self._dismissed = True
                self.close()
                self._transport = None
            if self.run is None:
                self._load.submit_answered(self, answer)
            else:
                self._load.poll_answered(self, answer)
        except BadAnswer as error:
            self._load.surprise(self, "unreadable answer", str(error).encode())
            self.close()
