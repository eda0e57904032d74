"""The simulated provider as a running server, for tests and the command line."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from tollway.simulator.connection import Connection
from tollway.simulator.desk import Desk
from tollway.simulator.ledger import Ledger
from tollway.simulator.settings import Settings

_BACKLOG = 4096
_CLOSE_S = 2.0


class RunningSim:
    """A simulated provider that listens. `stop` may be called twice."""

    def __init__(self, desk: Desk, server: asyncio.Server, connections: set[Connection], host: str) -> None:
        self._desk = desk
        self._server = server
        self._connections = connections
        self.port: int = server.sockets[0].getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def ledger(self) -> Ledger:
        """The rows and totals, live."""
        return self._desk.ledger

    async def stop(self) -> None:
        """Stop listening and close every connection; calls in flight enter the ledger as cancelled."""
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        await asyncio.wait({asyncio.ensure_future(self._server.wait_closed())}, timeout=_CLOSE_S)
        for connection in list(self._connections):
            connection.transport.abort()
        await asyncio.sleep(0)


async def start_provider_sim(
    config: Mapping[str, Any] | None = None, port: int = 0, *, host: str = "127.0.0.1"
) -> RunningSim:
    """Start a simulated provider; port 0 takes a free one.

    Raises ConfigError for a configuration that cannot be used, OSError if the port is taken.
    """
    loop = asyncio.get_running_loop()
    desk = Desk(Settings({}).changed(dict(config or {})), time.monotonic())
    connections: set[Connection] = set()
    server = await loop.create_server(lambda: Connection(desk, connections), host, port, backlog=_BACKLOG)
    return RunningSim(desk, server, connections, host)
