"""The data folder: made whole or not at all, checked before use, configured at every start.

DATA_DIR/postgres        the cluster; it gets this name only when initdb, roles and the sync to disk are done
DATA_DIR/postgres.new    a cluster in the making; one found at start was never finished and is made anew
DATA_DIR/postgres.log    the server's log
DATA_DIR/postgres.lock   held while a process owns the server; names its pid and socket folder
"""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from string import Template

from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.processes import Child, Identity, spawn
from tollway.record.embedded.binaries import MAJOR
from tollway.record.embedded.identity import hand_over
from tollway.record.embedded.leftovers import end_processes_in

SUPERUSER = "postgres"
_FILES = Path(__file__).parent
# Servers and initdb stand in the cluster's folder and name it so: that works for a path of any length, and below
# parents which their user may not enter.
_HERE = "/proc/self/cwd"
_ON_LINUX = Path(_HERE).exists()
_SYNC_METHOD = "syncfs" if _ON_LINUX else "fsync"
_POSTGRESQL_CONF = "include 'tollway.conf'\ninclude_if_exists 'local.conf'\n"
_LOCAL_CONF = "# Settings of your own, which tollway.conf does not overwrite; read at the next start.\n"
# Who may connect is decided by the socket's folder: its user and root, who could read the files as well.
_HBA_CONF = "local all all trust\nlocal replication all trust\n"
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """How the embedded server runs. `fsync=False` is for tests: it survives kill -9, but not a crash of the machine."""

    fsync: bool = True
    max_connections: int = 200
    shared_buffers_mb: int | None = None  # None: 256, or an eighth of the memory if that is less
    start_stall_s: float = 300.0  # a start that logs nothing for so long has failed
    stop_s: float = 60.0  # a fast shutdown that takes longer becomes an immediate one


@dataclass(frozen=True, slots=True)
class Cluster:
    """One data folder, with the programs and the system user that serve it."""

    data_dir: Path
    binaries: Path
    identity: Identity | None
    options: EmbeddedOptions

    @property
    def path(self) -> Path:
        """The folder that PostgreSQL calls its data directory."""
        return cluster_path(self.data_dir)

    @property
    def log_path(self) -> Path:
        """Where the server's standard error goes."""
        return self.data_dir / "postgres.log"

    async def prepare(self) -> None:
        """Make the cluster, or check the one that is there. Raises ConfigError, DatabaseUnavailable."""
        staging = self.data_dir / "postgres.new"
        if staging.exists():
            await end_processes_in(staging)
            await asyncio.to_thread(shutil.rmtree, staging)
        if not self.path.exists():
            await self._make(staging)
        self._check()

    def configure(self, socket_dir: Path) -> None:
        """Write the server's configuration for this start."""
        memory_mb = _memory_mb()
        text = (_FILES / "tollway.conf").read_text()
        conf = Template(text).substitute(
            socket_dir=socket_dir,
            max_connections=self.options.max_connections,
            sync_method=_SYNC_METHOD,
            fsync="on" if self.options.fsync else "off",
            shared_buffers_mb=self.options.shared_buffers_mb or max(16, min(256, memory_mb // 8)),
            cache_mb=max(64, memory_mb // 2),
        )
        for name, content in (
            ("postgresql.conf", _POSTGRESQL_CONF),
            ("tollway.conf", conf),
            ("pg_hba.conf", _HBA_CONF),
        ):
            self._write(self.path / name, content)

    def spawn_server(self) -> Child:
        """Start `postgres -D DIR`; its death signal asks for a fast shutdown. Raises OSError."""
        here = ["-D", _HERE] if _ON_LINUX else []  # the last -D counts, the first is for people
        with open(self.log_path, "ab", opener=_private) as log:
            return spawn(
                [str(self.binaries / "postgres"), "-D", str(self.path), *here],
                death_signal=signal.SIGINT,
                env=_ENVIRONMENT,
                cwd=self.path,
                identity=self.identity,
                output=log,
                umask=0o077,
            )

    async def _make(self, staging: Path) -> None:
        self._create(staging)
        here = _HERE if _ON_LINUX else str(staging)
        initdb = [str(self.binaries / "initdb"), "-D", here]
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        await self._run([*initdb, "-U", SUPERUSER, *locale, "--auth=trust", "--no-sync", "--no-instructions"], staging)
        roles = (_FILES / "roles.sql").read_bytes()
        single = [str(self.binaries / "postgres"), "--single", "-F", "-j", "-D", here, "-c", "exit_on_error=on"]
        await self._run([*single, "-c", "log_checkpoints=off", "template1"], staging, roles)
        self._write(staging / "local.conf", _LOCAL_CONF)
        if self.options.fsync:
            await self._run([*initdb, "--sync-only", f"--sync-method={_SYNC_METHOD}"], staging)
        self._name(staging)

    def _create(self, staging: Path) -> None:
        staging.mkdir(mode=0o700)
        hand_over(staging, self.identity)

    def _name(self, staging: Path) -> None:
        """From here on the cluster counts as made."""
        staging.rename(self.path)
        _sync_folder(self.data_dir)

    async def _run(self, argv: list[str], cwd: Path, stdin: bytes = b"") -> None:
        """Run one of PostgreSQL's programs to its end. Raises DatabaseUnavailable with what it said."""
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            child = spawn(
                argv,
                death_signal=signal.SIGKILL,
                env=_ENVIRONMENT,
                cwd=cwd,
                identity=self.identity,
                stdin=given,
                output=said,
            )
            try:
                await child.wait()
            finally:
                child.kill()
                code = await child.wait()
            if code != 0:
                said.seek(0)
                tail = said.read().decode(errors="replace").strip()[-2000:]
                raise DatabaseUnavailable(f"{Path(argv[0]).name} ended with {code} in {cwd}:\n{tail}")

    def _check(self) -> None:
        try:
            version = (self.path / "PG_VERSION").read_text().strip()
            owner = self.path.stat().st_uid
        except OSError as error:
            raise ConfigError(
                "database.data_dir",
                str(self.data_dir),
                f"{self.path} is not a readable PostgreSQL data folder ({error.strerror}): choose another --data-dir, "
                "or start as the user who made it",
            ) from error
        if version != str(MAJOR):
            raise ConfigError(
                "database.data_dir",
                str(self.data_dir),
                f"made by PostgreSQL {version}, and this is {MAJOR}: dump it with the old version and load the dump",
            )
        if self.identity is not None and owner != self.identity.uid:
            for folder, _, files in os.walk(self.path):
                for path in (Path(folder), *(Path(folder, file) for file in files)):
                    hand_over(path, self.identity)
        elif self.identity is None and owner != os.geteuid():
            raise ConfigError(
                "database.data_dir",
                str(self.data_dir),
                f"it belongs to user {owner}: start as that user or as root, or choose another --data-dir",
            )

    def _write(self, path: Path, content: str) -> None:
        """Replace a file whole, unless it says so already: a full disk must not keep the server from its restart."""
        with contextlib.suppress(OSError):
            if path.read_text() == content:
                return
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}.", delete=False) as file:
            file.write(content)
            file.flush()
            if self.identity is not None:
                os.fchown(file.fileno(), self.identity.uid, self.identity.gid)
            if self.options.fsync:
                os.fsync(file.fileno())
        os.replace(file.name, path)


def cluster_path(data_dir: Path) -> Path:
    """Where the cluster of a data folder lies."""
    return data_dir / "postgres"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _memory_mb() -> int:
    """The memory of this machine, or of this container if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no such limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total >> 20
