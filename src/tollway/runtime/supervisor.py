"""Keeps the processes of `tollway up` alive: starts them, starts them again, drains them, ends them.

    add ──▶ running ──▶ draining (SIGTERM, grace_s, then SIGKILL) ──▶ gone
             │   ▲          ▲ remove, stop
       died  ▼   │
            pausing: nothing the first time, then growing to at most 1.5 s

Promises: a child that dies, however it ends, is started again within 2 s; children do not outlive this process.
Children write to our own stdout and stderr: a pump between would lose the last lines of a crash and could block them.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tollway.processes import Child, spawn

_log = logging.getLogger(__name__)

_PAUSE_FIRST_S = 0.1
_PAUSE_MAX_S = 1.5
_HEALTHY_S = 5.0  # a child that lived so long begins again with no pause
_EXIT_CONFIGURATION = 2


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process to keep alive. `env` None: our whole environment."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None


class ChildState(StrEnum):
    """Where a child stands."""

    RUNNING = "running"
    PAUSING = "pausing"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """What is known of one child; `last_exit` is `-signal` when a signal ended it."""

    name: str
    state: ChildState
    pid: int | None
    restarts: int
    last_exit: int | None


class Supervisor:
    """Runs a set of children, which may change while it runs."""

    def __init__(self, specs: Iterable[ChildSpec] = (), *, grace_s: float = 35.0) -> None:
        """`grace_s` is what a child gets between SIGTERM and SIGKILL: more than it takes itself to drain."""
        self._grace_s = grace_s
        self._keepers: dict[str, _Keeper] = {}
        self._group: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()
        for spec in specs:
            self._admit(spec)

    async def run(self) -> int:
        """Keep the children alive until `request_stop`, then drain them; 0, or 1 when one had to be killed.

        Cancelled, it kills what still lives.
        """
        async with asyncio.TaskGroup() as self._group:
            for keeper in self._keepers.values():
                keeper.task = self._group.create_task(keeper.keep(), name=f"keep {keeper.spec.name}")
            await self._stopping.wait()
            for keeper in self._keepers.values():
                keeper.request_drain()
        return int(any(keeper.was_killed for keeper in self._keepers.values()))

    @property
    def stopping(self) -> bool:
        """Whether all children were told to end; none can be added then."""
        return self._stopping.is_set()

    def request_stop(self) -> None:
        """Begin to drain all children; `run` returns when they have ended. A second call does nothing."""
        self._stopping.set()

    async def stop(self) -> None:
        """`request_stop`, and wait until every child has ended."""
        self.request_stop()
        for keeper in list(self._keepers.values()):
            keeper.request_drain()
            if keeper.task is not None:
                await asyncio.wait([keeper.task])

    def add(self, spec: ChildSpec) -> None:
        """Start one more child. Raises ValueError when its name is taken, RuntimeError when we are stopping."""
        if self._stopping.is_set():
            raise RuntimeError(f"cannot start {spec.name}: the supervisor is stopping")
        keeper = self._admit(spec)
        if self._group is not None:
            keeper.task = self._group.create_task(keeper.keep(), name=f"keep {spec.name}")

    async def remove(self, name: str) -> None:
        """Drain one child and forget it; returns when it has ended. Raises KeyError when there is none."""
        keeper = self._keepers[name]
        keeper.request_drain()
        if keeper.task is not None:
            await asyncio.wait([keeper.task])
        if self._keepers.get(name) is keeper:
            del self._keepers[name]

    def status(self) -> list[ChildStatus]:
        """Every child's state, in the order they were added."""
        return [keeper.status() for keeper in self._keepers.values()]

    def _admit(self, spec: ChildSpec) -> "_Keeper":
        if spec.name in self._keepers:
            raise ValueError(f"there is a child named {spec.name!r} already")
        keeper = self._keepers[spec.name] = _Keeper(spec, self._grace_s)
        return keeper


class _Keeper:
    """One child: its process now, and its history."""

    def __init__(self, spec: ChildSpec, grace_s: float) -> None:
        self.spec = spec
        self.task: asyncio.Task[None] | None = None
        self.was_killed = False
        self._grace_s = grace_s
        self._draining = asyncio.Event()
        self._child: Child | None = None
        self._state = ChildState.PAUSING
        self._starts = 0
        self._last_exit: int | None = None

    def status(self) -> ChildStatus:
        """A snapshot."""
        pid = self._child.pid if self._child is not None else None
        return ChildStatus(self.spec.name, self._state, pid, max(0, self._starts - 1), self._last_exit)

    def request_drain(self) -> None:
        """Let the child end and do not start it again."""
        self._draining.set()

    async def keep(self) -> None:
        """Start the child, again and again, until it is to drain; ends with no process left."""
        pause_s = 0.0
        try:
            while not await self._draining_within(pause_s):
                began = time.monotonic()
                await self._live_once()
                lived_s = time.monotonic() - began
                pause_s = 0.0 if lived_s > _HEALTHY_S else min(_PAUSE_MAX_S, pause_s * 2 or self._first_pause_s())
        finally:
            self._state = ChildState.GONE

    def _first_pause_s(self) -> float:
        return 0.0 if self._starts <= 1 else _PAUSE_FIRST_S

    async def _draining_within(self, pause_s: float) -> bool:
        self._state = ChildState.PAUSING
        if pause_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._draining.wait()
        return self._draining.is_set()

    async def _live_once(self) -> None:
        """One life of the child, from its start to its end."""
        self._starts += 1
        try:
            child = spawn(self.spec.argv, death_signal=signal.SIGTERM, env=self.spec.env, cwd=self.spec.cwd)
        except OSError as error:
            _log.error("%s cannot be started: %s", self.spec.name, error)
            return
        self._child = child
        self._state = ChildState.RUNNING
        try:
            await self._until_end(child)
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
            self._child = None
            self._last_exit = child.returncode
        self._report(child)

    async def _until_end(self, child: Child) -> None:
        ended = asyncio.create_task(child.wait())
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait((ended, draining), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            draining.cancel()
            await asyncio.gather(ended, draining, return_exceptions=True)
        if child.returncode is not None:
            return
        self._state = ChildState.DRAINING
        child.send(signal.SIGTERM)
        if await child.wait_at_most(self._grace_s) is None:
            _log.error("%s (pid %d) did not end within %.0f s: killing it", self.spec.name, child.pid, self._grace_s)
            self.was_killed = True

    def _report(self, child: Child) -> None:
        if self._draining.is_set():
            return
        code = child.returncode
        if code == _EXIT_CONFIGURATION:
            _log.error(
                "%s refuses its configuration (exit 2, start %d): see its last lines. It is tried again, "
                "but will not run before that is mended",
                self.spec.name,
                self._starts,
            )
        else:
            how = (
                f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
            )
            _log.error("%s (pid %d) %s: starting it again", self.spec.name, child.pid, how)
