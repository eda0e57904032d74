"""The connections to one provider: bounded, used again newest first, closed when idle for long.

The bound counts slots: a connection open or being opened holds one, and a freed one passes to whoever waits longest.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from tollway.domain.errors import LlmError
from tollway.llm.http.connection import Connection
from tollway.llm.http.dial import Target, dial
from tollway.llm.http.proxy import Proxy


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """Bounds; beyond `connections_max` callers wait for one within their connect time."""

    connections_max: int
    connect_timeout_s: float
    idle_timeout_s: float


class Pool:
    """Hands out connections that are open and free."""

    def __init__(self, target: Target, proxy: Proxy | None, options: PoolOptions) -> None:
        self._target = target
        self._proxy = proxy
        self._options = options
        self.loop = asyncio.get_running_loop()
        self._all: set[Connection] = set()
        self._idle: dict[Connection, float] = {}
        self._slots_held = 0
        self._waiting: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()
        self._acquiring: set[asyncio.Timeout] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self) -> Connection | None:
        """A free connection, the one used last, or None when one must be opened or waited for."""
        while self._idle:
            connection, since = self._idle.popitem()
            if self.loop.time() - since > self._options.idle_timeout_s:
                connection.abort()
            elif connection.usable:
                return connection
        return None

    async def acquire(self, timeout_s: float) -> Connection:
        """Open a connection, or wait for one to come free. Raises LlmError, unbilled."""
        timeout_s = min(timeout_s, self._options.connect_timeout_s)
        try:
            async with asyncio.timeout(timeout_s) as patience:
                self._acquiring.add(patience)
                try:
                    return await self._acquire()
                finally:
                    self._acquiring.discard(patience)
        except TimeoutError:
            if self._closed:
                raise _stopped() from None
            raise LlmError("timeout_connect", f"no connection within {timeout_s:g} s") from None

    def close(self) -> None:
        """Close every connection; exchanges under way, and callers waiting for a connection, fail."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        self._idle.clear()
        for connection in list(self._all):
            connection.close_down()
        for patience in self._acquiring:
            if not patience.expired():
                patience.reschedule(self.loop.time())

    def came_free(self, connection: Connection) -> None:
        """For connections: the answer is whole."""
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(connection)
            return
        self._idle[connection] = self.loop.time()
        if self._sweep is None and not self._closed:
            self._sweep = self.loop.call_later(self._options.idle_timeout_s, self._close_idle)

    def lost(self, connection: Connection) -> None:
        """For connections: it is closed, so another may be opened."""
        self._idle.pop(connection, None)
        if connection in self._all:
            self._all.remove(connection)
            self._pass_slot_on()

    async def _acquire(self) -> Connection:
        while True:
            if self._closed:
                raise _stopped()
            connection = self.take()
            if connection is not None:
                return connection
            if self._slots_held < self._options.connections_max:
                self._slots_held += 1
                return await self._open()
            connection = await self._wait()
            if connection is None:
                return await self._open()
            if connection.usable:
                return connection

    async def _open(self) -> Connection:
        """A new connection in a slot that the caller holds."""
        try:
            connection = await dial(self._target, self._proxy, lambda: Connection(self))
        except BaseException:
            self._pass_slot_on()
            raise
        if self._closed or not connection.usable:
            connection.abort()
            self._pass_slot_on()
            raise (_stopped() if self._closed else LlmError("connection", "the provider closed the connection at once"))
        self._all.add(connection)
        return connection

    async def _wait(self) -> Connection | None:
        """A connection that came free, or None: a slot to open one in. Either is passed on if the caller is gone."""
        waiter: asyncio.Future[Connection | None] = self.loop.create_future()
        self._waiting[waiter] = None
        try:
            return await waiter
        except asyncio.CancelledError:
            self._waiting.pop(waiter, None)
            if not waiter.cancelled():
                given = waiter.result()
                if given is None:
                    self._pass_slot_on()
                elif given.usable:
                    self.came_free(given)
            raise

    def _pass_slot_on(self) -> None:
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(None)
        else:
            self._slots_held -= 1

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        """Who waits longest, of those still there."""
        while self._waiting and not self._closed:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                return waiter
        return None

    def _close_idle(self) -> None:
        """Close what was idle for too long, seldom enough to be no work worth speaking of."""
        self._sweep = None
        now, limit_s = self.loop.time(), self._options.idle_timeout_s
        wait_s = 0.0
        for connection, since in list(self._idle.items()):
            wait_s = since + limit_s - now
            if wait_s > 0:
                break
            del self._idle[connection]
            connection.abort()
        if self._idle:
            self._sweep = self.loop.call_later(max(wait_s, limit_s / 10), self._close_idle)


def _stopped() -> LlmError:
    return LlmError("connection", "the transport is stopped")
