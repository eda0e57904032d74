"""Runs that lost their worker twice are executed alone, in a child process of their own (`tollway isolate`).

If such a run kills its process again, nothing else is lost with it, and the keeper ends it as poison.
"""

import asyncio
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from tollway.domain.errors import DatabaseUnavailable
from tollway.hotstate.broadcast import Broadcast
from tollway.processes import Child, spawn
from tollway.record.claims import Claims
from tollway.record.database import Database
from tollway.record.processes import retire_processes
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

LOOK_EVERY_S = 5.0
CHILDREN_MAX = 2
TERM_PATIENCE_S = 35.0


class Isolation:
    """Looks for runs that wait to be alone, and gives each a process."""

    def __init__(
        self, database: Database, claims: Claims, broadcast: Broadcast, program: Sequence[str], scope: "Scope"
    ) -> None:
        self._database = database
        self._claims = claims
        self._broadcast = broadcast
        self._program = tuple(program)
        self._scope = scope
        self._wake = asyncio.Event()
        self._children: dict[UUID, Child] = {}
        self._waits: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look; a second start is nothing."""
        if self._looking is None:
            self._broadcast.subscribe("alone", lambda _: self._wake.set())
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="isolation")

    async def stop(self) -> None:
        """Look no more, and let the children hand back or finish; a second stop is nothing."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        for child in self._children.values():
            child.send(signal.SIGTERM)
        if self._waits:
            await asyncio.wait(set(self._waits), timeout=TERM_PATIENCE_S)

    async def _look(self) -> None:
        while True:
            with suppress(DatabaseUnavailable):
                await self._fill()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S * random.uniform(0.8, 1.2)):
                    await self._wake.wait()
            self._wake.clear()

    async def _fill(self) -> None:
        room = CHILDREN_MAX - len(self._children)
        if room <= 0:
            return
        for run_id in await self._claims.waiting_alone(self._scope.lanes, self._scope.agents, CHILDREN_MAX * 2):
            if run_id in self._children or len(self._children) >= CHILDREN_MAX:
                continue
            # a session of its own, so that whoever ends this worker's group does not end the run with it; told to
            # finish or hand back when this worker dies
            child = spawn((*self._program, str(run_id)), death_signal=signal.SIGTERM)
            log.info("run.alone", run_id=str(run_id), pid=child.pid)
            self._children[run_id] = child
            task = asyncio.get_running_loop().create_task(self._await(run_id, child))
            self._waits.add(task)
            task.add_done_callback(self._waits.discard)

    async def _await(self, run_id: UUID, child: Child) -> None:
        code = await child.wait()
        self._children.pop(run_id, None)
        self._wake.set()
        if code != 0:  # it did not leave in good order: nobody need wait for its lease
            log.warning("run.alone_lost", run_id=str(run_id), pid=child.pid, exit=code)
            with suppress(DatabaseUnavailable):
                await retire_processes(self._database, [child.pid])


class Scope:
    """What this worker may give a process to: its lanes and its agents."""

    def __init__(self, lanes: Sequence[str], agents: Sequence[str]) -> None:
        self.lanes = tuple(lanes)
        self.agents = tuple(agents)


def isolate_program(arguments: Sequence[str]) -> tuple[str, ...]:
    """The command line of a run's own process, but for the run's id."""
    return (sys.executable, "-m", "tollway", "isolate", *arguments)
