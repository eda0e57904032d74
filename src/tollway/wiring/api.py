"""What an API process is made of."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

import uvicorn

from tollway.config import Settings
from tollway.domain.errors import ConfigError
from tollway.hotstate.run_news import RunNews
from tollway.ingress.app import Api, create_app
from tollway.ingress.services import ApiOptions, ApiServices
from tollway.outbound.sse import EventStreams
from tollway.record.accept import Accepts
from tollway.record.reads import RunReads
from tollway.record.settings_sync import SettingsSync, SyncOptions
from tollway.wiring.base import Base, base, stop_event

BACKLOG = 4096
KEEP_ALIVE_S = 75
SHUTDOWN_S = 10


class _Server(uvicorn.Server):
    """A server that leaves signals to us, so that a drained process exits 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """Bind before anything else starts. Raises ConfigError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError("server.port", port, f"cannot listen on {host}: {error.strerror}; choose another") from error
    return listener


async def run_api(settings: Settings, workers_expected: int = 0) -> int:
    """One API process until SIGTERM; the exit code. Raises ConfigError, DatabaseUnavailable."""
    stop = stop_event()
    listener = listen(settings.server.host, settings.server.port)
    async with base(settings, "api") as parts:
        api = _make_api(parts, workers_expected)
        config = uvicorn.Config(
            api,
            http="httptools",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        server = _Server(config)
        await api.start()
        serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
        stopping = asyncio.get_running_loop().create_task(stop.wait())
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        api.drain()
        server.should_exit = True
        await serving
        stopping.cancel()
        await api.stop()
    return 0


def _make_api(parts: Base, workers_expected: int) -> Api:
    settings = parts.settings
    run_news = RunNews(parts.broadcast)
    reads = RunReads(parts.database)
    sync = SettingsSync(
        parts.database,
        parts.broadcast,
        parts.clock,
        SyncOptions(settings.worker.heartbeat_s, settings.worker.lease_ttl_s),
    )
    options = ApiOptions(
        lanes=tuple(settings.lanes),
        body_bytes_max=settings.server.body_bytes_max,
        json_depth_max=settings.server.json_depth_max,
        workers_expected=workers_expected,
        supervisor=os.environ.get("TOLLWAY_SUPERVISOR", ""),
    )
    services = ApiServices(
        parts.database,
        Accepts(parts.database),
        reads,
        sync,
        parts.broadcast,
        run_news,
        EventStreams(reads, run_news, parts.broadcast),
        parts.ids,
        parts.clock,
        lambda: parts.metrics.render()[0],
        options,
    )
    return create_app(services)
