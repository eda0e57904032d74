"""The HTTP server of one API process: uvicorn without what costs and is not needed, on a socket of our own.

Signals are the wiring's; `stop()` drains: no new work, streams end, requests under way finish within the grace time.
"""

import asyncio
import socket
from dataclasses import dataclass

import uvicorn

from tollway.ingress.app import Api
from tollway.ingress.hot_protocol import HotProtocol
from tollway.ingress.quiet import QuietServer, quiet_config

_BACKLOG = 2048
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """For how long requests under way may take at the end and idle connections stay open, seconds."""

    grace_s: int = 10
    keep_alive_s: int = 75


class ApiServer:
    """Serves an Api until stopped."""

    def __init__(self, api: Api, listener: socket.socket, options: ServerOptions | None = None) -> None:
        self._api = api
        self._listener = listener
        self._options = options or ServerOptions()
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    async def start(self) -> None:
        """Read the settings, then accept connections. Raises DatabaseUnavailable."""
        if self._task is not None:
            return
        await self._api.start()
        config = quiet_config(
            self._api,
            HotProtocol,
            _BACKLOG,
            timeout_keep_alive=self._options.keep_alive_s,
            timeout_graceful_shutdown=self._options.grace_s,
        )
        self._server = QuietServer(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started and not self._task.done():  # noqa: ASYNC110  uvicorn has a flag, no event
            await asyncio.sleep(_POLL_S)
        if self._task.done():
            await self._task

    async def run(self, until: asyncio.Event) -> None:
        """Serve until the event is set, then stop. Raises what ended the server before its time."""
        await self.start()
        assert self._task is not None, "start made it"
        waiting = asyncio.create_task(until.wait())
        await asyncio.wait((self._task, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        ended = self._task
        await self.stop()
        await ended

    async def stop(self) -> None:
        """Drain and stop; a second stop is nothing."""
        task, self._task = self._task, None
        if task is None or self._server is None:
            return
        self._api.drain()
        self._server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)
        await self._api.stop()
        self._listener.close()
