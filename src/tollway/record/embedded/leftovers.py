"""What a crash leaves behind, and how it is cleared away before PostgreSQL starts again.

A server that outlived its owner is shut down rather than adopted: only a child can be waited for, dies with us, and
is sure to run on today's configuration. A server's processes are known by where they stand: in the cluster's folder.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import time
from pathlib import Path

from tollway.domain.errors import ConfigError

_log = logging.getLogger(__name__)

_PROGRAMS = {"postgres", "initdb"}
_POLL_S = 0.02
_LOCK_S = 0.2
_FAST_S = 30.0  # for a server that outlived its owner to shut down in order
_GONE_S = 30.0  # for killed processes to vanish


class DataLock:
    """Held by the one process that owns the server of a data folder; the kernel lets go of it when that dies."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "postgres.lock"
        self._fd: int | None = None

    async def take(self) -> None:
        """Raises ConfigError, naming the owner, when another process holds it; OSError when it cannot be opened."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _LOCK_S
        while not _locked(fd, fcntl.LOCK_EX):
            if time.monotonic() < deadline:  # `held_by_another` holds it for a moment
                await asyncio.sleep(_POLL_S)
                continue
            os.close(fd)
            owner = self.read().get("pid", "?")
            raise ConfigError(
                "database.data_dir",
                str(self._path.parent),
                f"process {owner} already runs on it: stop that one, or choose another --data-dir",
            )
        self._fd = fd

    def read(self) -> dict[str, object]:
        """What the present or last owner wrote: `pid`, `socket_dir`; empty when that cannot be read."""
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, socket_dir: Path) -> None:
        """Say who we are and where the server listens."""
        assert self._fd is not None, "the lock is taken first"
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"pid": os.getpid(), "socket_dir": str(socket_dir)}).encode(), 0)

    def held_by_another(self) -> bool:
        """Whether some process owns the server now."""
        try:
            fd = os.open(self._path, os.O_RDWR)
        except OSError:
            return False
        free = _locked(fd, fcntl.LOCK_SH)
        os.close(fd)
        return not free

    def release(self) -> None:
        """Let go; a second time does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _locked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def clear_way(cluster: Path) -> None:
    """End every server process that still works on `cluster`, and drop a pid file that would stop a new one.

    A pid file whose number is free, or names a server of another folder's user, PostgreSQL judges itself; one whose
    number was given to another program it would take for a live server, so it goes. Raises ConfigError when a
    process cannot be ended.
    """
    await end_processes_in(cluster, gently=_postmaster_pid(cluster))
    pid = _postmaster_pid(cluster)
    if pid is not None and _exists(pid):
        _log.warning("removing the stale %s: process %d is another program", cluster / "postmaster.pid", pid)
        (cluster / "postmaster.pid").unlink(missing_ok=True)


async def end_processes_in(folder: Path, gently: int | None = None) -> None:
    """Kill PostgreSQL's processes that stand in `folder`; `gently` names a postmaster to shut down in order first.

    Raises ConfigError when one cannot be ended.
    """
    found = _processes_in(folder)
    if gently in found:
        _log.warning("a PostgreSQL server (pid %d) outlived its owner on %s: shutting it down", gently, folder)
        with contextlib.suppress(ProcessLookupError):
            os.kill(gently, signal.SIGINT)
        await _until_gone(folder, _FAST_S)
        found = _processes_in(folder)
    if found:
        _log.warning("ending %d orphaned PostgreSQL processes on %s", len(found), folder)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await _until_gone(folder, _GONE_S)
    if stuck := _processes_in(folder):
        pids = ", ".join(map(str, stuck))
        raise ConfigError("database.data_dir", str(folder), f"processes {pids} still work on it and cannot be ended")


async def _until_gone(folder: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while _processes_in(folder) and time.monotonic() < deadline:  # noqa: ASYNC110  nothing tells of a stranger's end
        await asyncio.sleep(_POLL_S)


def _processes_in(folder: Path) -> list[int]:
    """The pids of PostgreSQL processes whose working directory is `folder`; none where there is no /proc."""
    try:
        here = folder.stat()
        entries = os.listdir("/proc")
    except OSError:
        return []
    found = []
    for entry in filter(str.isdigit, entries):
        try:
            if Path("/proc", entry, "comm").read_text().strip() not in _PROGRAMS:
                continue
            there = os.stat(f"/proc/{entry}/cwd")
        except OSError:
            continue  # it ended, or is somebody else's
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            found.append(int(entry))
    return found


def _postmaster_pid(cluster: Path) -> int | None:
    try:
        return int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
