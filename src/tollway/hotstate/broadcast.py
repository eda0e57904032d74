"""News between processes over Postgres: coalesced NOTIFY on a connection of its own, never within a write.

Fire and forget: a message may be lost (a cut connection, a transaction pooler in the way), so every listener also polls
at its leisure. Messages of one channel that gather within `SPACING_S` travel in one notification, joined by newlines.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

import asyncpg

from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

SPACING_S = 0.008
PAYLOAD_BYTES_MAX = 7900
_PREFIX = "tollway_"
_NOTIFY = "select pg_notify($1, $2)"
_RECONNECT_FIRST_S = 0.1
_RECONNECT_MAX_S = 2.0
_PENDING_MAX = 50_000

Callback = Callable[[str], None]


class Broadcast:
    """One process' end of the news. With an empty `url` it says nothing and hears nothing (polling remains)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._callbacks: dict[str, list[Callback]] = {}
        self._pending: dict[str, dict[str, None]] = {}
        self._news = asyncio.Event()
        self._connection: asyncpg.Connection | None = None
        self._one_at_a_time = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def connected(self) -> bool:
        """Whether news travels just now; who depends on it polls faster when not."""
        return self._connection is not None

    async def start(self) -> None:
        """Connect in the background, and stay connected."""
        if self._url and not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._stay_connected()), loop.create_task(self._speak())]

    async def stop(self) -> None:
        """Say what is still unsaid, and disconnect; a second stop is nothing."""
        tasks, self._tasks = self._tasks, []
        if tasks and self._pending:
            with suppress(Exception):
                await asyncio.wait_for(self._send(), 1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._disconnect()

    def publish(self, channel: str, message: str) -> None:
        """Tell the other processes; the same message waiting already is not said twice."""
        if not self._url:
            return
        waiting = self._pending.setdefault(channel, {})
        if len(waiting) < _PENDING_MAX:
            waiting[message] = None
        self._news.set()

    def subscribe(self, channel: str, callback: Callback) -> Callable[[], None]:
        """Call back with each message of a channel; returns what ends the subscription."""
        callbacks = self._callbacks.setdefault(channel, [])
        callbacks.append(callback)
        if len(callbacks) == 1 and self._connection is not None:
            asyncio.get_running_loop().create_task(self._listen(self._connection, channel))

        def unsubscribe() -> None:
            with suppress(ValueError):
                callbacks.remove(callback)

        return unsubscribe

    def _heard(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        callbacks = self._callbacks.get(channel[len(_PREFIX) :])
        if callbacks:
            for message in str(payload).split("\n"):
                for callback in list(callbacks):
                    callback(message)

    async def _listen(self, connection: asyncpg.Connection, channel: str) -> None:
        """Listen on one more channel; on a connection that is lost meanwhile, the next one listens on them all."""
        with suppress(OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
            async with self._one_at_a_time:
                await connection.add_listener(_PREFIX + channel, self._heard)

    async def _stay_connected(self) -> None:
        pause_s = _RECONNECT_FIRST_S
        while True:
            try:
                connection = await asyncpg.connect(
                    self._url,
                    timeout=5,
                    command_timeout=5,
                    statement_cache_size=10,
                    server_settings={"application_name": "tollway news"},
                )
                lost = asyncio.Event()
                connection.add_termination_listener(lambda _c, lost=lost: lost.set())
                self._connection = connection  # from here on, whoever subscribes listens at once
                for channel in list(self._callbacks):
                    await self._listen(connection, channel)
                pause_s = _RECONNECT_FIRST_S
                self._news.set()
                await lost.wait()
                log.warning("the news connection was lost; polling until it is back")
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pause_s = min(pause_s * 2, _RECONNECT_MAX_S)
            await self._disconnect()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            connection.terminate()

    async def _speak(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if self._connection is None:
                continue
            await self._send()
            await asyncio.sleep(SPACING_S)

    async def _send(self) -> None:
        connection, pending = self._connection, self._pending
        if connection is None or not pending:
            return
        self._pending = {}
        told = [
            (_PREFIX + channel, payload) for channel, messages in pending.items() for payload in join(list(messages))
        ]
        with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with self._one_at_a_time:
                await connection.executemany(_NOTIFY, told)


def join(messages: list[str]) -> list[str]:
    """Messages in as few payloads as fit the limit of a notification; one that is too long alone is dropped."""
    payloads: list[str] = []
    parts: list[str] = []
    size = 0
    for message in messages:
        weight = len(message.encode()) + 1
        if weight > PAYLOAD_BYTES_MAX:
            continue
        if size + weight > PAYLOAD_BYTES_MAX:
            payloads.append("\n".join(parts))
            parts, size = [], 0
        parts.append(message)
        size += weight
    if parts:
        payloads.append("\n".join(parts))
    return payloads
