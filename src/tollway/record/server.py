"""The embedded PostgreSQL: made, started, watched and stopped by us, with the programs of a wheel.

    start ──▶ serving ──▶ stop
                │  ▲
          died  ▼  │  supervise: at once, then with a growing pause of at most 1.5 s
              clear the way, start again

Promises: a server that died is being started again within 2 s; one process owns a data folder; nothing outlives the
owner (its death asks the server for a fast shutdown, and the next owner clears away what is left).
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.processes import Child
from tollway.record.embedded.binaries import find_binaries
from tollway.record.embedded.cluster import SUPERUSER, Cluster, EmbeddedOptions, cluster_path
from tollway.record.embedded.identity import choose_identity, hand_over
from tollway.record.embedded.leftovers import DataLock, clear_way

__all__ = ["EmbeddedOptions", "EmbeddedPostgres", "running_url"]

_log = logging.getLogger(__name__)

_READY_POLL_S = 0.02
_PROGRESS_S = 10.0
_PAUSE_FIRST_S = 0.1
_PAUSE_MAX_S = 1.5
_HEALTHY_S = 2.0  # a server that served so long begins again with no pause
_IMMEDIATE_S = 10.0
_UPKEEP_S = 60.0
_LOG_BYTES_MAX = 16 << 20
_LOG_TAIL_BYTES = 4096
_SOCKET_PREFIX = "tollway-pg-"
_SOCKET_DIR_MAX = 80  # a socket's path may have 107 bytes, the file's name needs some


class EmbeddedPostgres:
    """One PostgreSQL server on one data folder."""

    def __init__(self, data_dir: Path, options: EmbeddedOptions = EmbeddedOptions()) -> None:  # noqa: B008  frozen
        self._data_dir = Path(os.path.abspath(data_dir))
        self._options = options
        self._lock = DataLock(self._data_dir)
        self._stopping = asyncio.Event()
        self._cluster: Cluster | None = None
        self._socket_dir: Path | None = None
        self._child: Child | None = None
        self.restarts = 0

    @property
    def url(self) -> str:
        """The DSN of the role that owns the record, for migrations. Raises DatabaseUnavailable before `start`."""
        return self.url_of("tollway")

    @property
    def app_url(self) -> str:
        """The DSN of the least-privileged role that processes use. Raises DatabaseUnavailable before `start`."""
        return self.url_of("tollway_app")

    @property
    def admin_url(self) -> str:
        """The DSN of the superuser, for diagnosis and tests. Raises DatabaseUnavailable before `start`."""
        return self.url_of(SUPERUSER)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it lives."""
        return self._child.pid if self._child and self._child.returncode is None else None

    def url_of(self, role: str, database: str = "tollway") -> str:
        """The DSN for any role and database; it stays the same across restarts under one owner."""
        if self._socket_dir is None:
            raise DatabaseUnavailable("the embedded PostgreSQL is not started")
        return _url(role, database, self._socket_dir)

    async def start(self) -> None:
        """Serve: make the data folder if it is new, recover if it must, return when connections are accepted.

        Recovery may take as long as it makes progress; to give up waiting, cancel. The server dies with the thread that
        runs this: let it be the main one. Raises ConfigError when the folder cannot be used or another
        process owns it, DatabaseUnavailable with the log's tail when the server does not come up.
        """
        self._stopping.clear()
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            await self._lock.take()
        except OSError as error:
            raise ConfigError(
                "database.data_dir", str(self._data_dir), f"{error.strerror}: choose a folder you may write to"
            ) from error
        try:
            identity = choose_identity(cluster_path(self._data_dir))
            binaries = await asyncio.to_thread(find_binaries, identity)
            self._cluster = Cluster(self._data_dir, binaries, identity, self._options)
            await self._cluster.prepare()
            _remove_socket_dir(self._lock.read().get("socket_dir"))
            self._socket_dir = _make_socket_dir()
            hand_over(self._socket_dir, identity)
            self._lock.write(self._socket_dir)
            await self._launch(self._cluster)
        except OSError as error:
            await self._give_up()
            raise DatabaseUnavailable(f"PostgreSQL cannot start on {self._data_dir}: {error}") from error
        except BaseException:
            await self._give_up()
            raise

    async def supervise(self) -> None:
        """Start the server again whenever it dies; returns after `stop`."""
        pause_s = 0.0
        while not self._stopping.is_set() and self._cluster is not None:
            began = time.monotonic()
            await self._until_death(self._cluster)
            if time.monotonic() - began > _HEALTHY_S:
                pause_s = 0.0
            if await self._stopped_within(pause_s):
                return
            pause_s = min(_PAUSE_MAX_S, max(_PAUSE_FIRST_S, pause_s * 2))
            self.restarts += 1
            try:
                await self._launch(self._cluster)
            except (ConfigError, DatabaseUnavailable, OSError) as error:
                if not self._stopping.is_set():
                    _log.error("PostgreSQL did not start, trying again in %.1f s: %s", pause_s, error)
                    await self._shut(signal.SIGQUIT, _IMMEDIATE_S)
            else:
                _log.warning("PostgreSQL serves again (pid %s, restart %d)", self.pid, self.restarts)

    async def stop(self) -> None:
        """Shut down fast: sessions are ended, everything is on disk. A second stop does nothing."""
        self._stopping.set()
        await self._shut(signal.SIGINT, self._options.stop_s)
        self._release()

    async def _launch(self, cluster: Cluster) -> None:
        await clear_way(cluster.path)
        if self._socket_dir is None or self._stopping.is_set():
            raise DatabaseUnavailable("PostgreSQL was stopped while it started")
        cluster.configure(self._socket_dir)
        log_start = cluster.log_path.stat().st_size if cluster.log_path.exists() else 0
        self._child = cluster.spawn_server()
        await self._until_ready(cluster, self._child, log_start)

    async def _until_ready(self, cluster: Cluster, child: Child, log_start: int) -> None:
        stall_at = report_at = time.monotonic()
        size = log_start
        while not _is_ready(cluster.path, child.pid):
            if child.returncode is not None:
                tail = _tail(cluster.log_path, log_start)
                raise DatabaseUnavailable(f"PostgreSQL ended with {child.returncode} while it started:\n{tail}")
            now = time.monotonic()
            if (size_now := cluster.log_path.stat().st_size) != size:
                size, stall_at = size_now, now
            if now - stall_at > self._options.start_stall_s:
                tail = _tail(cluster.log_path, log_start)
                raise DatabaseUnavailable(f"PostgreSQL made no progress for {now - stall_at:.0f} s:\n{tail}")
            if now - report_at > _PROGRESS_S:
                report_at = now
                _log.info("PostgreSQL is starting: %s", _tail(cluster.log_path, log_start).rpartition("\n")[2])
            await asyncio.sleep(_READY_POLL_S)

    async def _until_death(self, cluster: Cluster) -> None:
        """Returns when the server has died; keeps its log short meanwhile."""
        if self._child is None:
            return
        while (code := await self._child.wait_at_most(_UPKEEP_S)) is None:
            with contextlib.suppress(OSError):
                _shorten(cluster.log_path)
        if not self._stopping.is_set():
            _log.error("PostgreSQL (pid %d) ended with %d; starting it again", self._child.pid, code)

    async def _stopped_within(self, pause_s: float) -> bool:
        if pause_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
        return self._stopping.is_set()

    async def _shut(self, signum: int, timeout_s: float) -> None:
        """End the server; each harsher way when the one before takes too long."""
        child = self._child
        if child is None or child.returncode is not None:
            return
        child.send(signum)
        if await child.wait_at_most(timeout_s) is not None:
            return
        _log.error("PostgreSQL did not stop within %.0f s; it will recover at its next start", timeout_s)
        child.send(signal.SIGQUIT)
        if await child.wait_at_most(_IMMEDIATE_S) is None:
            child.kill()
            await child.wait()

    async def _give_up(self) -> None:
        await self._shut(signal.SIGQUIT, _IMMEDIATE_S)
        self._release()

    def _release(self) -> None:
        if self._socket_dir is not None:
            _remove_socket_dir(str(self._socket_dir))
            self._socket_dir = None
        self._lock.release()


def running_url(data_dir: Path, role: str = "tollway") -> str | None:
    """The DSN of the server that another process runs on `data_dir` now; None when none does."""
    lock = DataLock(Path(os.path.abspath(data_dir)))
    socket_dir = lock.read().get("socket_dir")
    if not isinstance(socket_dir, str) or not lock.held_by_another():
        return None
    return _url(role, "tollway", Path(socket_dir))


def _url(role: str, database: str, socket_dir: Path) -> str:
    return f"postgresql://{role}@/{database}?host={socket_dir}"


def _make_socket_dir() -> Path:
    """A new folder that only its owner may enter, with a path short enough for a socket in it."""
    parent = tempfile.gettempdir()
    if len(parent) > _SOCKET_DIR_MAX or not os.stat(parent).st_mode & 0o001:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=parent))


def _remove_socket_dir(path: object) -> None:
    if isinstance(path, str) and Path(path).name.startswith(_SOCKET_PREFIX):
        shutil.rmtree(path, ignore_errors=True)


def _is_ready(cluster: Path, pid: int) -> bool:
    """Whether the server `pid` accepts connections, as its pid file says (the eighth line is its state)."""
    try:
        lines = (cluster / "postmaster.pid").read_text().split("\n")
    except OSError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _tail(log: Path, start: int) -> str:
    """The last lines the server wrote since it started."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").strip()


def _shorten(log: Path) -> None:
    """Keep the last of a long log beside it and begin anew; the server appends, so it goes on writing."""
    if log.stat().st_size > _LOG_BYTES_MAX:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)
