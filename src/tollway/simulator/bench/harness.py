"""One measurement: load a running stack with a plan, account for CPU and memory by process within its window."""

import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tollway.domain.errors import TollwayError
from tollway.simulator.accounting import Snapshot, Spent, machine_busy_s, snapshot, spent_between
from tollway.simulator.bench.machine import Machine, inspect
from tollway.simulator.bench.stack import Stack, StackOptions
from tollway.simulator.load.plan import LoadPlan, LoadResult

_SLACK_S = 60.0
_LINE_BYTES_MAX = 16 * 1024 * 1024


class LoadFailed(TollwayError):
    """The load generator could not do its job."""


class Watcher(Protocol):
    """Who wants to see how it goes."""

    def stage(self, text: str) -> None:
        """What is being done now."""

    def load(self, elapsed_s: float, total_s: float, done: int, open_runs: int) -> None:
        """How far the load is: seconds of those planned (without the drain), runs done, runs open."""


@dataclass(frozen=True)
class BenchOptions:
    """What the user chose; None leaves a scenario its own default."""

    tollway: tuple[str, ...]
    scratch: Path
    texts: tuple[str, ...]
    clients: int | None = None
    measure_s: float | None = None
    warmup_s: float | None = None
    workers: int = 1
    keep: bool = False

    def stack(self, *, slots: int = 1000, provider_latency_s: float = 0.05) -> StackOptions:
        """A stack as this user wants it."""
        return StackOptions(
            tollway=self.tollway,
            scratch=self.scratch,
            workers=self.workers,
            slots=slots,
            provider_latency_s=provider_latency_s,
            keep=self.keep,
        )

    def plan(self, stack: Stack, agent: str, **wishes: Any) -> LoadPlan:
        """A plan for `agent`; `wishes` are the scenario's, the user's choices come before them."""
        chosen = {"clients": self.clients, "measure_s": self.measure_s, "warmup_s": self.warmup_s}
        wishes |= {key: value for key, value in chosen.items() if value is not None}
        return LoadPlan(port=stack.port, api_key=stack.api_key, agent=agent, texts=list(self.texts), **wishes)


@dataclass(frozen=True)
class Measured:
    """What one load showed. CPU is of the measured window; resident bytes are by role."""

    load: LoadResult
    spent: Spent
    generator_s: float
    provider_s: float
    elsewhere_s: float
    rss_idle: dict[str, int]
    rss_loaded: dict[str, int]
    provider_calls: int
    before: Machine
    after: Machine

    @property
    def elsewhere_cpus(self) -> float:
        """CPUs that other programs on this machine kept busy within the window."""
        return self.elsewhere_s / self.load.window_s

    def cpu_ms_per_run(self) -> dict[str, float]:
        """CPU milliseconds by role, a run finished in the window."""
        runs = max(1, self.load.finished_in_window)
        return {role: seconds * 1000 / runs for role, seconds in self.spent.by_role.items()}

    @property
    def cpu_ms_per_run_total(self) -> float:
        """CPU milliseconds of all of Tollway and Postgres, a run finished in the window."""
        return self.spent.total_s * 1000 / max(1, self.load.finished_in_window)

    @property
    def generator_us_per_exchange(self) -> float:
        """What the load generator itself spent on a submit or a poll, in microseconds."""
        return self.generator_s * 1e6 / max(1, self.load.exchanges_in_window)


async def measure(stack: Stack, plan: LoadPlan, watcher: Watcher) -> Measured:
    """Carry out `plan` against `stack`. Raises LoadFailed or StackFailed when there is no result to speak of."""
    watcher.stage("calibrating")
    before = inspect(stack.folder)
    calls_before = await stack.provider_calls()
    idle = snapshot(stack.up.pid, stack.data_dir)
    watcher.stage("loading")
    job = _Job(stack, plan, watcher)
    load = await job.run()
    stack.check()
    watcher.stage("calibrating")
    calls = await stack.provider_calls() - calls_before
    begin, end = job.at["begin"], job.at["end"]
    spent = spent_between(begin.system, end.system)
    generator_s = spent_between(begin.generator, end.generator).total_s
    provider_s = spent_between(begin.provider, end.provider).total_s
    return Measured(
        load=load,
        spent=spent,
        generator_s=generator_s,
        provider_s=provider_s,
        elsewhere_s=max(0.0, end.busy_s - begin.busy_s - spent.total_s - generator_s - provider_s),
        rss_idle=idle.rss_by_role(),
        rss_loaded=end.system.rss_by_role(),
        provider_calls=calls,
        before=before,
        after=inspect(stack.folder),
    )


@dataclass(frozen=True)
class _Reading:
    """What had been spent by whom at one mark."""

    system: Snapshot
    generator: Snapshot
    provider: Snapshot
    busy_s: float


class _Job:
    """The load generator's process, and what is noted at its marks."""

    def __init__(self, stack: Stack, plan: LoadPlan, watcher: Watcher) -> None:
        self.at: dict[str, _Reading] = {}
        self._stack = stack
        self._plan = plan
        self._watcher = watcher

    async def run(self) -> LoadResult:
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
                return await self._follow(process, planned_s)
        except TimeoutError:
            raise LoadFailed("the load generator did not come to an end in its time") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _follow(self, process: asyncio.subprocess.Process, planned_s: float) -> LoadResult:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(self._plan) + b"\n")
        began = time.monotonic()
        while line := await process.stdout.readline():
            message: dict[str, Any] = msgspec.json.decode(line)
            if "mark" in message:
                self.at[message["mark"]] = self._read(process.pid)
            elif "progress" in message:
                _, done, busy = message["progress"]
                self._watcher.load(time.monotonic() - began, planned_s, done, busy)
            elif "error" in message:
                raise LoadFailed(message["error"])
            elif "result" in message:
                return msgspec.convert(message["result"], LoadResult)
        raise LoadFailed(f"the load generator ended early ({await process.wait()})")

    def _read(self, generator: int) -> "_Reading":
        stack = self._stack
        return _Reading(
            system=snapshot(stack.up.pid, stack.data_dir),
            generator=snapshot(generator),
            provider=snapshot(stack.provider.pid),
            busy_s=machine_busy_s(),
        )
