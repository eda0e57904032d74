"""The HTTP server of one API process: uvicorn without what costs and is not needed, on a socket of our own.

Signals are the wiring's; `stop()` drains: no new work, streams end, requests under way finish within the grace time.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from tollway.domain.errors import ConfigError
from tollway.ingress.app import Api
from tollway.ingress.hot_protocol import HotProtocol

_BACKLOG = 2048
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where to listen (`port` 0: any free one), and for how long requests under way may take at the end, seconds."""

    host: str = "127.0.0.1"
    port: int = 8700
    grace_s: int = 30
    keep_alive_s: int = 75


class _QuietServer(uvicorn.Server):
    """uvicorn's server without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the wiring."""
        yield


class ApiServer:
    """Serves an Api until stopped."""

    def __init__(self, api: Api, options: ServerOptions) -> None:
        self._api = api
        self._options = options
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 before `start`."""
        return self._socket.getsockname()[1] if self._socket is not None else 0

    async def start(self) -> None:
        """Read the settings, then listen. Raises ConfigError for an address that cannot be had, DatabaseUnavailable."""
        if self._task is not None:
            return
        self._socket = self._bind()
        try:
            await self._api.start()
        except BaseException:
            self._socket.close()
            self._socket = None
            raise
        config = uvicorn.Config(
            self._api,
            http=HotProtocol,
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=self._options.keep_alive_s,
            timeout_graceful_shutdown=self._options.grace_s,
        )
        self._server = _QuietServer(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started and not self._task.done():  # noqa: ASYNC110  uvicorn has a flag, no event
            await asyncio.sleep(_POLL_S)
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """Drain and stop; a second stop is nothing."""
        task, self._task = self._task, None
        if task is None or self._server is None:
            return
        self._api.drain()
        self._server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)
        await self._api.stop()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _bind(self) -> socket.socket:
        host, port = self._options.host, self._options.port
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            bound = socket.socket(family, socket.SOCK_STREAM)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.bind((host, port))
            except OSError:
                bound.close()
                raise
        except OSError as error:
            remedy = f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port or server.port"
            raise ConfigError("server.port", port, remedy) from error
        bound.setblocking(False)
        return bound
