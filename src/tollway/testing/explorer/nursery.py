"""The orchestrator's side of the zygote: processes to start, signal and await, from asyncio."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


class Process:
    """One forked process. `code` is its exit code, `-signal` when killed by one, once it has ended."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self.pid = pid
        self.code: int | None = None
        self.ended = asyncio.Event()
        self._nursery = nursery

    def send(self, signum: int, *, group: bool = False) -> None:
        """Signal the process, or with it all it started; nothing happens when it has ended."""
        if self.code is None:
            self._nursery.say({"signal": int(signum), "pid": self.pid, "group": group})

    async def kill(self) -> None:
        """SIGKILL the process and all it started, and wait until it is gone."""
        self.send(signal.SIGKILL, group=True)
        await self.ended.wait()


class Nursery:
    """Starts the zygote, and processes through it."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._processes: dict[int, Process] = {}
        self._born: dict[str, asyncio.Future[Process]] = {}
        self._number = 0
        self._zygote: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the zygote; importing takes it a second, the first process waits for it."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._zygote = subprocess.Popen(  # noqa: ASYNC220  once, before anything else runs
                [sys.executable, "-m", "tollway.testing.explorer.zygote", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                cwd=self._scratch,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={name: text for name, text in os.environ.items() if not name.startswith("TOLLWAY_")},
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._listening = asyncio.create_task(self._listen(reader))

    async def stop(self) -> None:
        """End the zygote, and with it every process; a second stop is nothing."""
        writer, self._writer = self._writer, None
        if writer is None or self._zygote is None or self._listening is None:
            return
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await asyncio.to_thread(self._zygote.wait)
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    def say(self, order: dict[str, Any]) -> None:
        """Send the zygote an order."""
        if self._writer is not None:
            self._writer.write(json.dumps(order).encode() + b"\n")

    async def spawn(self, role: str, env: dict[str, str], points: str, log: Path) -> Process:
        """Fork a process of a role with failpoints armed."""
        self._number += 1
        name = str(self._number)
        born = self._born[name] = asyncio.get_running_loop().create_future()
        self.say({"spawn": name, "role": role, "env": env, "points": points, "log": str(log)})
        return await born

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            if "spawned" in message:
                process = self._processes[message["pid"]] = Process(self, message["pid"])
                self._born.pop(message["spawned"]).set_result(process)
            else:
                gone = self._processes.pop(message["exited"])
                gone.code = message["code"]
                gone.ended.set()
        for waiting in self._born.values():
            waiting.set_exception(ConnectionError("the zygote has died"))
