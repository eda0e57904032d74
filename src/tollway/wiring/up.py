"""Everything on one machine: the embedded PostgreSQL, the simulated provider, API, workers and keeper, supervised.

postgres ─▶ migrate ─▶ provider-sim (when nothing else is configured) ─▶ api, keeper, workers
SIGTERM: api, keeper, workers drain ─▶ provider-sim ─▶ postgres
"""

import asyncio
import contextlib
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tollway.config import SIM_PORT, Settings
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import DatabaseUnavailable
from tollway.ingress.listening import listen
from tollway.queue.autoscaler import Bounds
from tollway.record.database import Database, DatabaseOptions
from tollway.record.keys import check_admin_key, ensure_admin_key
from tollway.record.migrate import migrate
from tollway.record.processes import retire_processes
from tollway.record.server import EmbeddedOptions, EmbeddedPostgres
from tollway.runtime.supervisor import ChildSpec, Supervisor
from tollway.telemetry.logs import get_logger
from tollway.wiring.autoscale import Autoscaling, worker_name
from tollway.wiring.base import stop_event

log = get_logger(__name__)

ADMIN_KEY_FILE = "admin.key"
CONNECTIONS_MIN = 200
CONNECTIONS_BESIDE = 60
CONNECTIONS_PER_WORKER = 16
_LOOK_EVERY_S = 0.2
_GRACE_BEYOND_S = 5.0


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `tollway up` was told: agent modules, the settings file its children shall read too, bounds of workers."""

    modules: tuple[str, ...]
    config: Path | None
    json_logs: bool
    autoscale: Bounds | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything is, once it has started."""

    url: str
    admin_key_file: Path | None
    sim_url: str | None


async def run_up(settings: Settings, options: UpOptions, announce: Callable[[Place], None]) -> int:
    """Everything until SIGTERM; the exit code. Raises ConfigError, DatabaseUnavailable."""
    stop = stop_event()
    if os.environ.get("TOLLWAY_ADMIN_KEY"):
        check_admin_key(os.environ["TOLLWAY_ADMIN_KEY"])
    settings = _with_port(settings)
    async with _record(settings, options) as (owner_url, app_url):
        await migrate(owner_url)
        key_file = await _admin_key(settings, owner_url)
        sim_port = _free_port(SIM_PORT) if settings.simulated else None
        env = _environment(settings, app_url, sim_port)
        simulator = Supervisor(_simulator(sim_port, env), grace_s=5)
        children = Supervisor(_children(settings, options, env), grace_s=settings.worker.grace_s + _GRACE_BEYOND_S)
        simulating = asyncio.get_running_loop().create_task(simulator.run())
        running = asyncio.get_running_loop().create_task(children.run())
        watching = asyncio.get_running_loop().create_task(_watch(children, settings, options, env))
        server = settings.server
        sim_url = None if sim_port is None else f"http://127.0.0.1:{sim_port}"
        announce(Place(f"http://{server.host}:{server.port}", key_file, sim_url))
        await stop.wait()
        log.info("up.stopping")
        children.request_stop()
        code = await running
        watching.cancel()
        await asyncio.wait((watching,))
        simulator.request_stop()
        await simulating
    return code


@asynccontextmanager
async def _record(settings: Settings, options: UpOptions) -> AsyncIterator[tuple[str, str]]:
    """The record's URLs for its owner and for the processes; the embedded server lives as long as this."""
    if not settings.database.embedded:
        yield settings.database.direct_url or settings.database.url, settings.database.url
        return
    workers = settings.worker.processes if options.autoscale is None else options.autoscale.most + 1
    connections = max(CONNECTIONS_MIN, CONNECTIONS_BESIDE + CONNECTIONS_PER_WORKER * workers)
    postgres = EmbeddedPostgres(settings.database.data_dir, EmbeddedOptions(max_connections=connections))
    await postgres.start()
    supervising = asyncio.get_running_loop().create_task(postgres.supervise())
    try:
        yield postgres.url, postgres.app_url
    finally:
        await postgres.stop()
        await supervising


async def _admin_key(settings: Settings, owner_url: str) -> Path | None:
    """Make sure of the first admin key; the file it is kept in, unless the environment names it."""
    given = os.environ.get("TOLLWAY_ADMIN_KEY")
    path = settings.database.data_dir / ADMIN_KEY_FILE
    if given:
        secret = given
    elif path.exists():
        secret = path.read_text().strip()
    else:
        secret = f"tw_{secrets.token_urlsafe(30)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret + "\n")
    database = Database(DatabaseOptions(owner_url, connections_max=1), AnchoredClock())
    await database.start()
    try:
        await ensure_admin_key(database, secret)
    finally:
        await database.stop()
    return None if given else path


def _with_port(settings: Settings) -> Settings:
    """The settings with the port that is free for the API; 0 becomes a number. Raises ConfigError."""
    with listen(settings.server.host, settings.server.port) as listener:
        port = int(listener.getsockname()[1])
    return settings.model_copy(update={"server": settings.server.model_copy(update={"port": port})})


def _free_port(wished: int) -> int:
    for port in (wished, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


def _environment(settings: Settings, app_url: str, sim_port: int | None) -> dict[str, str]:
    """What the children inherit: our whole environment, and where things are."""
    env = dict(os.environ)
    env["TOLLWAY_DATABASE__URL"] = app_url
    env["TOLLWAY_DATABASE__DATA_DIR"] = str(settings.database.data_dir)
    env["TOLLWAY_SERVER__HOST"] = settings.server.host
    env["TOLLWAY_SERVER__PORT"] = str(settings.server.port)
    env["TOLLWAY_WORKER__PROCESSES"] = str(settings.worker.processes)
    env["TOLLWAY_SUPERVISOR"] = f"{socket.gethostname()}:{os.getpid()}"
    if sim_port is not None:
        env["TOLLWAY_PROVIDERS__SIM__BASE_URL"] = f"http://127.0.0.1:{sim_port}/v1"
    return env


def _simulator(port: int | None, env: dict[str, str]) -> list[ChildSpec]:
    if port is None:
        return []
    return [ChildSpec("provider-sim", (*_program("provider-sim"), "--port", str(port)), env)]


def _children(settings: Settings, options: UpOptions, env: dict[str, str]) -> list[ChildSpec]:
    common, processes = _common(options), settings.worker.processes
    return [
        ChildSpec("keeper", (*_program("keeper"), *common), env),
        ChildSpec("api", (*_program("api"), "--expect-workers", str(processes), *common), env),
        *(_worker(number, options, env) for number in range(1, processes + 1)),
    ]


def _common(options: UpOptions) -> tuple[str, ...]:
    """What every child is told."""
    config = () if options.config is None else ("--config", str(options.config))
    return (*config, "--json") if options.json_logs else config


def _worker(number: int, options: UpOptions, env: dict[str, str]) -> ChildSpec:
    agents = tuple(part for module in options.modules for part in ("--agents", module))
    return ChildSpec(worker_name(number), (*_program("worker"), *agents, *_common(options)), env)


def _program(command: str) -> Sequence[str]:
    return (sys.executable, "-m", "tollway", command)


async def _watch(children: Supervisor, settings: Settings, options: UpOptions, env: dict[str, str]) -> None:
    """Beside the children: retire the dead, and scale the workers when they have bounds."""
    url = env["TOLLWAY_DATABASE__URL"]
    async with asyncio.TaskGroup() as group:
        group.create_task(_retire_the_dead(children, url))
        if options.autoscale is not None:
            make = partial(_worker, options=options, env=env)
            scaling = Autoscaling(children, make, options.autoscale, settings, env["TOLLWAY_SUPERVISOR"])
            group.create_task(scaling.run())


async def _retire_the_dead(children: Supervisor, url: str) -> None:
    """Tell the record of children that ended, so that their runs need not wait for a lease to run out."""
    pids: dict[str, int | None] = {}
    gone: list[int] = []
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        for status in children.status():
            before = pids.get(status.name)
            if before is not None and status.pid != before:
                gone.append(before)
            pids[status.name] = status.pid
        for name in pids.keys() - {status.name for status in children.status()}:  # drained, and no longer wanted
            gone += [pid for pid in (pids.pop(name),) if pid is not None]
        if not gone:
            continue
        database = Database(DatabaseOptions(url, connections_max=1), AnchoredClock())
        try:
            await database.start()
            await retire_processes(database, gone)
            gone = []
        except DatabaseUnavailable:
            pass  # told at the next look
        finally:
            await database.stop()
