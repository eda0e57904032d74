"""Child processes that do not outlive this one.

A child leads a session of its own, so that Ctrl-C reaches only us and we decide the order of the stop. It gets
`death_signal` when the thread that spawned it ends, even by SIGKILL: spawn from a thread that lives as long as the
process (the main one). When a child has ended, what is left of its process group is killed.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05
_prctl = getattr(ctypes.CDLL(None), "prctl", None)


@dataclass(frozen=True, slots=True)
class Identity:
    """The system user a child runs as."""

    uid: int
    gid: int


class Child:
    """A process we started and will reap."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, `-signal` when killed by one, None while the process lives. Reaps."""
        if self._popen.returncode is None and self._has_ended():
            # The unreaped leader still reserves its number, so this cannot hit a stranger's group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()
        return self._popen.returncode

    def send(self, signum: int) -> None:
        """Signal the process; nothing happens when it has ended."""
        if self.returncode is None:
            self._popen.send_signal(signum)

    def kill(self) -> None:
        """SIGKILL the process and its group."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.kill()

    async def wait(self) -> int:
        """Wait until the process has ended; its exit code. Any number of callers may wait."""
        while (code := self.returncode) is None:
            await self._until_ended()
        return code

    async def wait_at_most(self, timeout_s: float) -> int | None:
        """Like `wait`, but None when the process still lives after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self.wait()
        return None

    def _has_ended(self) -> bool:
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    async def _until_ended(self) -> None:
        try:
            fd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            await asyncio.sleep(_POLL_S)
            return
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        loop.add_reader(fd, _settle, ended)
        try:
            await ended
        finally:
            loop.remove_reader(fd)
            os.close(fd)


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def spawn(
    argv: Sequence[str],
    *,
    death_signal: int,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    identity: Identity | None = None,
    stdin: IO[bytes] | int | None = subprocess.DEVNULL,
    output: IO[bytes] | int | None = None,
    umask: int = -1,
) -> Child:
    """Start `argv`; `output` takes stdout and stderr (None: ours). Raises OSError when it cannot be started.

    `cwd` is entered before the identity changes, so a child may stand in a folder it could not have walked to.
    """
    popen = subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=output,
        stderr=output,
        user=identity.uid if identity else None,
        group=identity.gid if identity else None,
        extra_groups=[] if identity else None,
        umask=umask,
        start_new_session=True,
        preexec_fn=_tie_to_parent(death_signal),  # noqa: PLW1509  one system call, no locks
    )
    return Child(popen)


def _tie_to_parent(signum: int) -> Callable[[], None]:
    """What the forked child runs after its identity changed (a change of uid clears the death signal)."""
    parent = os.getpid()

    def tie() -> None:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return tie
