"""The doctor's checks of this machine: Python, clock, port, files, providers' keys."""

import errno
import http.client
import json
import platform
import resource
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tollway
from tollway.config import Settings

_PYTHON_MIN = (3, 11)
_PROBE_TIMEOUT_S = 2.0
_FILES_BESIDE_SLOTS = 256
_CLOCK_SAMPLE_S = 0.02
_CLOCK_DRIFT_MAX_S = 0.005


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: what was found and, unless it is fine, what to do."""

    name: str
    state: Literal["ok", "warn", "fail", "skip"]
    found: str
    remedy: str = ""

    def document(self) -> dict[str, str]:
        """As JSON shows it."""
        return asdict(self)


def check_python() -> Check:
    """Whether this Python is new enough."""
    found = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if sys.version_info < _PYTHON_MIN:
        return Check("python", "fail", found, "install Python 3.11 or newer and run `make setup` again")
    return Check("python", "ok", found)


def check_clock() -> Check:
    """Whether the wall clock is later than this installation, and runs as fast as the monotonic one."""
    installed = (Path(tollway.__file__)).stat().st_mtime
    wall, monotonic = time.time(), time.monotonic()
    time.sleep(_CLOCK_SAMPLE_S)
    drift = (time.time() - wall) - (time.monotonic() - monotonic)
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall))
    remedy = "set the clock and keep it with NTP (`timedatectl set-ntp true`)"
    if wall < installed - 86400:
        return Check("clock", "fail", f"{found}, before Tollway was installed here", remedy)
    if abs(drift) > _CLOCK_DRIFT_MAX_S:
        return Check("clock", "warn", f"{found}, and it jumped by {drift * 1000:.0f} ms while we looked", remedy)
    return Check("clock", "ok", found)


def check_port(host: str, port: int) -> Check:
    """Whether the API can listen where the settings say; if something does already, whether it is Tollway."""
    if port == 0:
        return Check("port", "ok", f"{host}, any free port")
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except socket.gaierror:
        return Check("port", "fail", f"{host} is no address of this machine", "set server.host, say to 127.0.0.1")
    except OSError as error:
        return _port_refused(error, where, host, port)
    return Check("port", "ok", f"{where} is free")


def _port_refused(error: OSError, where: str, host: str, port: int) -> Check:
    elsewhere = "or choose another: --port N, or server.port in tollway.toml"
    if error.errno == errno.EADDRINUSE:
        if _is_tollway(host, port):
            return Check(
                "port", "warn", f"Tollway itself answers at {where}", f"stop it before starting another, {elsewhere}"
            )
        see = f"see who holds it with `ss -ltnp 'sport = :{port}'` and stop that, {elsewhere}"
        return Check("port", "fail", f"{where} is taken by another program", see)
    if error.errno == errno.EACCES:
        return Check("port", "fail", f"{where} may not be used by this user", "choose a port above 1023: --port N")
    if error.errno == errno.EADDRNOTAVAIL:
        return Check("port", "fail", f"{host} is no address of this machine", "set server.host, say to 127.0.0.1")
    return Check(
        "port", "fail", f"{where}: {error.strerror}", "set server.host and server.port to what can be used here"
    )


def _is_tollway(host: str, port: int) -> bool:
    """Whether the program there refuses as Tollway does; a bare /healthz is answered by many."""
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(reach, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/v1/runs?limit=1")
        document = json.loads(connection.getresponse().read(65536))
        return str(document["type"]).startswith("https://tollway.dev/problems/")
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False
    finally:
        connection.close()


def check_open_files(slots: int) -> Check:
    """Whether the limit of open files lets every slot have its connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = slots + _FILES_BESIDE_SLOTS
    if soft != resource.RLIM_INFINITY and soft < needed:
        how = (
            f"raise it with `ulimit -n {needed}`"
            if hard >= needed
            else "raise the hard limit (limits.conf, LimitNOFILE)"
        )
        return Check(
            "open files", "warn", f"at most {soft}, but {slots} slots want {needed}", f"{how}, or lower worker.slots"
        )
    return Check("open files", "ok", f"at most {soft if soft != resource.RLIM_INFINITY else 'unlimited'}")


def check_providers(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    """Whether each provider that some route uses has its key in the environment."""
    if settings.simulated:
        yield Check("providers", "ok", "the simulated provider, which needs no key")
        return
    for name in dict.fromkeys(route.provider for route in settings.routes):
        provider = settings.providers[name]
        variable = provider.api_key_env
        if variable and not environ.get(variable, "").strip():
            remedy = f"export {variable}=…, or take the routes to {name} out of tollway.toml"
            yield Check("providers", "fail", f"{name}: its key's variable {variable} is not set", remedy)
        elif not variable and provider.base_url.startswith("https://"):
            remedy = f"set providers.{name}.api_key_env to the name of the variable that holds the key"
            yield Check("providers", "warn", f"{name}: no key is sent to {provider.base_url}", remedy)
        else:
            yield Check(
                "providers", "ok", f"{name} at {provider.base_url}" + (f", key in {variable}" if variable else "")
            )
