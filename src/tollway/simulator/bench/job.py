"""One load: the generator's process, and what every process has spent at the borders of its window."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from tollway.domain.errors import TollwayError
from tollway.simulator.accounting import Snapshot, Spent, machine_busy_s, snapshot, spent_between
from tollway.simulator.bench.stack import Stack
from tollway.simulator.load import CallPlan, LoadPlan

_SLACK_S = 60.0
_LINE_BYTES_MAX = 64 * 1024 * 1024


class LoadFailed(TollwayError):
    """The load generator could not do its job."""


class Watcher(Protocol):
    """Who wants to see how it goes."""

    def stage(self, text: str) -> None:
        """What is being done now."""

    def load(self, elapsed_s: float, total_s: float, done: int, open_runs: int) -> None:
        """How far the load is: seconds of those planned (without the drain), runs done, runs open."""


@dataclass(frozen=True)
class Costs:
    """CPU seconds within a window by whom, and resident bytes by role at its end."""

    spent: Spent
    generator_s: float
    provider_s: float
    elsewhere_s: float
    rss_loaded: dict[str, int]


@dataclass(frozen=True)
class _Reading:
    """What had been spent by whom at one mark."""

    system: Snapshot
    generator: Snapshot
    providers: tuple[Snapshot, ...]
    busy_s: float


class Job:
    """Carries out one plan. `during` begins with the measured window and has to end with the load or before it."""

    def __init__(
        self,
        stack: Stack,
        plan: LoadPlan | CallPlan,
        watcher: Watcher,
        during: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._at: dict[str, _Reading] = {}
        self._stack = stack
        self._plan = plan
        self._watcher = watcher
        self._during = during
        self._beside: asyncio.Future[None] | None = None

    async def run(self) -> Any:
        """The result as the generator tells it. Raises LoadFailed, and whatever `during` raises."""
        plan = self._plan
        planned_s = plan.warmup_s + plan.measure_s
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tollway.simulator.bench.generate"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
        )
        try:
            async with asyncio.timeout(planned_s + plan.drain_s + _SLACK_S):
                result = await self._follow(process, planned_s)
                if self._beside is not None:
                    await self._beside
                return result
        except TimeoutError:
            raise LoadFailed("the load generator did not come to an end in its time") from None
        finally:
            if self._beside is not None:
                self._beside.cancel()
                await asyncio.gather(self._beside, return_exceptions=True)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def costs(self) -> Costs:
        """What was spent between the marks of a load that ran."""
        begin, end = self._at["begin"], self._at["end"]
        spent = spent_between(begin.system, end.system)
        generator_s = spent_between(begin.generator, end.generator).total_s
        pairs = zip(begin.providers, end.providers, strict=True)
        provider_s = sum(spent_between(before, after).total_s for before, after in pairs)
        elsewhere_s = end.busy_s - begin.busy_s - spent.total_s - generator_s - provider_s
        return Costs(spent, generator_s, provider_s, max(0.0, elsewhere_s), end.system.rss_by_role())

    async def _follow(self, process: asyncio.subprocess.Process, planned_s: float) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(self._plan) + b"\n")
        began = time.monotonic()
        while line := await process.stdout.readline():
            message: dict[str, Any] = msgspec.json.decode(line)
            if "mark" in message:
                self._marked(message["mark"], process.pid)
            elif "progress" in message:
                _, done, busy = message["progress"]
                self._watcher.load(time.monotonic() - began, planned_s, done, busy)
            elif "error" in message:
                raise LoadFailed(message["error"])
            elif "result" in message:
                return message["result"]
        raise LoadFailed(f"the load generator ended early ({await process.wait()})")

    def _marked(self, mark: str, generator: int) -> None:
        stack = self._stack
        self._at[mark] = _Reading(
            system=snapshot(stack.up.pid, stack.data_dir),
            generator=snapshot(generator),
            providers=tuple(snapshot(provider.pid) for provider in stack.providers),
            busy_s=machine_busy_s(),
        )
        if mark == "begin" and self._during is not None:
            self._beside = asyncio.ensure_future(self._during())
