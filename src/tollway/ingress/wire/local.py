"""The wire on this machine's loopback, for the frameworks of a worker's runs; it listens from its first use on."""

import asyncio
import socket

import uvicorn

from tollway.ingress.quiet import QuietServer, quiet_config
from tollway.ingress.wire.app import WireApp
from tollway.ingress.wire.door import Door
from tollway.ingress.wire.shortcut import WireProtocol

_BACKLOG = 1024
_HOST = "127.0.0.1"
_POLL_S = 0.01


class LocalWire:
    """Serves a door until stopped; `stop` may be called twice."""

    def __init__(self, door: Door) -> None:
        self._app = WireApp(door)
        self._base_url = ""
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    def base_url(self) -> str:
        """Where it serves. It listens when this returns, and answers as soon as the event loop turns."""
        if not self._base_url:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.bind((_HOST, 0))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            self._base_url = f"http://{_HOST}:{listener.getsockname()[1]}/v1"
            self._server = QuietServer(quiet_config(self._app, WireProtocol, _BACKLOG))
            self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[listener]))
        return self._base_url

    async def stop(self) -> None:
        """Close every connection; its callers are gone by now."""
        task, self._task = self._task, None
        if task is None or self._server is None:
            return
        while not self._server.started and not task.done():  # noqa: ASYNC110  uvicorn has a flag, no event
            await asyncio.sleep(_POLL_S)
        self._server.should_exit = self._server.force_exit = True
        await asyncio.gather(task, return_exceptions=True)
