"""A simulated provider beside the system under test: a process that may be killed and comes back on the same port."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tollway.processes import Child
from tollway.simulator.bench.asking import ask
from tollway.simulator.bench.processes import StackFailed, log_tail, start_program, stop_program, until_answers
from tollway.simulator.ledger import Row

_PAGE = 20_000


class Provider:
    """One `tollway provider-sim`; `settings` are its configuration at every start."""

    def __init__(self, program: Sequence[str], folder: Path, port: int, settings: dict[str, Any]) -> None:
        self.port = port
        self._program = program
        self._folder = folder
        self._settings = settings
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """Its process; -1 while there is none."""
        return -1 if self._child is None else self._child.pid

    async def start(self) -> None:
        """Start it and wait until it answers. Raises StackFailed."""
        self._child = start_program([*self._program, "provider-sim", "--port", str(self.port)], self._folder)
        await until_answers(lambda: ask(self.port, "/healthz"), self.check, self._folder)
        await self.configure(**self._settings)

    def check(self) -> None:
        """Raises StackFailed when it has ended without being told to."""
        if self._child is not None and self._child.returncode is not None:
            code = self._child.returncode
            raise StackFailed(f"tollway provider-sim ended with {code}\n{log_tail(self._folder)}")

    async def kill(self) -> None:
        """SIGKILL; its ledger goes with it."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            await child.wait()

    async def stop(self) -> None:
        """Stop it politely, if it runs."""
        child, self._child = self._child, None
        if child is not None:
            await stop_program(child)

    async def configure(self, **change: Any) -> None:
        """Change its settings from now on."""
        if change:
            await ask(self.port, "/sim/config", "POST", change)

    async def totals(self) -> dict[str, Any]:
        """The totals of its ledger."""
        document = await ask(self.port, "/sim/ledger?totals=1")
        found: dict[str, Any] = document["totals"]
        return found

    async def rows(self, after: int = 0) -> list[Row]:
        """The rows of its ledger numbered above `after`."""
        found: list[Row] = []
        while True:
            page = await ask(self.port, f"/sim/ledger?after={after + len(found)}&limit={_PAGE}")
            found += msgspec.convert(page["rows"], list[Row])
            if page["next"] is None:
                return found

    async def meter(self, after: int = -1) -> dict[str, Any]:
        """What it let pass and refused by model and second, and the second it is now."""
        found: dict[str, Any] = await ask(self.port, f"/sim/limits?after={after}")
        return found


def arrived_s(row: Row) -> float:
    """When a call came to the provider, in epoch seconds."""
    return datetime.fromisoformat(row.at).timestamp()
