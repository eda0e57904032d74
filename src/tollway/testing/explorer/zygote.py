"""The mother of the explorer's processes: has everything imported, and forks a Tollway process within milliseconds.

Started as `python -m tollway.testing.explorer.zygote FD`; speaks JSON lines over that socket. It reaps its children
itself, so a number it is asked to signal is never a stranger's.

    {"spawn": name, "role": …, "env": {…}, "points": "…", "log": path}  ->  {"spawned": name, "pid": n}
    {"signal": n, "pid": n, "group": bool}                             ->  (nothing)
    (a child ended)                                                    ->  {"exited": pid, "code": n}
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import select
import signal
import socket
import sys
import traceback
from collections.abc import Coroutine
from typing import Any

import uvloop

import tollway.testing.explorer.agents  # noqa: F401  registered before the fork
from tollway import failpoints
from tollway.config import Settings, load_settings
from tollway.record.sql import queries
from tollway.telemetry.logs import configure
from tollway.wiring.api import run_api
from tollway.wiring.keeper import run_keeper
from tollway.wiring.worker import run_worker

AGENTS_MODULE = "tollway.testing.explorer.agents"
_PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None)


class Zygote:
    """Forks, signals and reaps until the other end of the socket closes; then everything it forked is killed."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._unread = b""
        self._children: set[int] = set()
        self._woken, waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Serve one orchestrator."""
        while True:
            ready, _, _ = select.select([self._link.fileno(), self._woken], [], [])
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if self._link.fileno() in ready:
                said = self._link.recv(65536)
                if not said:
                    break
                *lines, self._unread = (self._unread + said).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
        for pid in self._children:
            self._signal(pid, signal.SIGKILL, group=True)

    def _obey(self, order: dict[str, Any]) -> None:
        if "spawn" in order:
            pid = os.fork()
            if pid == 0:
                self._become(order)
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
            self._children.add(pid)
            self._say({"spawned": order["spawn"], "pid": pid})
        elif order["pid"] in self._children:
            self._signal(order["pid"], order["signal"], group=order["group"])

    def _signal(self, pid: int, signum: int, *, group: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(pid, signum)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
            self._say({"exited": pid, "code": os.waitstatus_to_exitcode(status)})

    def _say(self, message: dict[str, Any]) -> None:
        self._link.sendall(json.dumps(message).encode() + b"\n")

    def _become(self, order: dict[str, Any]) -> None:
        """In the child: be the process that was asked for, to its end."""
        code = 70
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._link.close()
            if _prctl is not None:
                _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(order["env"])
            random.seed()
            failpoints.arm(order["points"])
            code = _run(order["role"])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)


def _run(role: str) -> int:
    settings = load_settings()
    configure(role, settings.telemetry.log_format, settings.telemetry.log_level)
    return uvloop.run(_process(role, settings))


def _process(role: str, settings: Settings) -> Coroutine[Any, Any, int]:
    if role == "api":
        return run_api(settings)
    if role == "keeper":
        return run_keeper(settings)
    return run_worker(settings, [AGENTS_MODULE])


def main() -> None:
    """Be the zygote on the socket whose number is the first argument."""
    queries()
    asyncio.set_event_loop(None)
    gc.collect()
    gc.freeze()
    Zygote(socket.socket(fileno=int(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
