"""Starts Tollway's processes by forking one that has imported everything: 2 ms a start instead of 1.5 s.

The zygote is forked before any thread or event loop exists and stays single-threaded, so its forks are sound. Parent
and zygote speak JSON lines: a command per process, an answer with its pid, and news of every end.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Casting:
    """A process to start: its role, settings file, environment beside our own, failpoints, and log file."""

    role: str
    config: str
    env: dict[str, str]
    failpoints: str
    log: str


class Zygote:
    """The parent's side. `start` before any thread or loop; `connect` in the loop."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid = pid
        self._line = line
        self._spawns: dict[int, asyncio.Future[int]] = {}
        self._ends: dict[int, Callable[[int], None]] = {}
        self._early: dict[int, int] = {}
        self._number = 0
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    def start(cls) -> "Zygote":
        """Fork the zygote."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _die_with_parent()
            try:
                _serve(theirs)
            finally:
                os._exit(0)
        theirs.close()
        return cls(pid, ours)

    async def connect(self) -> None:
        """Begin to hear from it."""
        reader, self._writer = await asyncio.open_connection(sock=self._line)
        self._listening = asyncio.get_running_loop().create_task(self._listen(reader))

    async def close(self) -> None:
        """End it, and with it every process it started."""
        if self._writer is not None:
            self._writer.close()
        if self._listening is not None:
            self._listening.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    async def spawn(self, casting: Casting, ended: Callable[[int], None]) -> int:
        """Start a process; `ended` is called with its exit code, `-signal` when killed. Returns its pid."""
        assert self._writer is not None
        self._number += 1
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._spawns[self._number] = future
        command = {"number": self._number, **{name: getattr(casting, name) for name in Casting.__slots__}}
        self._writer.write(json.dumps(command).encode() + b"\n")
        pid = await future
        if pid in self._early:
            ended(self._early.pop(pid))
        else:
            self._ends[pid] = ended
        return pid

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            said = json.loads(line)
            if "number" in said:
                self._spawns.pop(said["number"]).set_result(said["pid"])
            elif said["pid"] in self._ends:
                self._ends.pop(said["pid"])(said["code"])
            else:
                self._early[said["pid"]] = said["code"]


def _serve(line: socket.socket) -> None:
    import tollway.wiring.api
    import tollway.wiring.keeper
    import tollway.wiring.worker  # noqa: F401

    from . import agents  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()
    selector = selectors.DefaultSelector()
    selector.register(line, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    buffer = b""
    while True:
        for key, _ in selector.select():
            if key.fileobj is woken:
                with contextlib.suppress(BlockingIOError):
                    woken.recv(4096)
                continue
            data = line.recv(65536)
            if not data:
                return
            *commands, buffer = (buffer + data).split(b"\n")
            for command in commands:
                _fork(line, json.loads(command))
        _reap(line)


def _fork(line: socket.socket, command: dict[str, Any]) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            line.close()
            _die_with_parent()
            os.setsid()
            code = _become(command)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _say(line, {"number": command["number"], "pid": pid})


def _reap(line: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # what it started goes with it, as under `tollway up`
            _say(line, {"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(line: socket.socket, what: dict[str, Any]) -> None:
    line.sendall(json.dumps(what).encode() + b"\n")


def _become(command: dict[str, Any]) -> int:
    """In the child: be the process that the command asks for."""
    import uvloop

    from tollway import failpoints
    from tollway.config import load_settings
    from tollway.telemetry.logs import configure
    from tollway.wiring.api import run_api
    from tollway.wiring.keeper import run_keeper
    from tollway.wiring.worker import run_worker

    log = os.open(command["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(command["env"])
    random.seed()
    role, config = command["role"], Path(command["config"])
    if role == "sim":
        return uvloop.run(_run_sim(json.loads(config.read_text())))
    settings = load_settings(config)
    configure(role.partition("-")[0], settings.telemetry.log_format, settings.telemetry.log_level)
    failpoints.arm(command["failpoints"])
    if role == "api":
        return uvloop.run(run_api(settings))
    if role == "keeper":
        return uvloop.run(run_keeper(settings))
    return uvloop.run(run_worker(settings, ["explorer.agents"], config))


async def _run_sim(config: dict[str, Any]) -> int:
    from tollway.simulator.provider import start_provider_sim

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    sim = await start_provider_sim(config["sim"], config["port"])
    await stop.wait()
    await sim.stop()
    return 0


def _die_with_parent() -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
