"""One measurement: load a running stack with a plan, account for CPU and memory by process within its window."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tollway.simulator.accounting import Spent, snapshot
from tollway.simulator.bench.job import Job, LoadFailed, Watcher
from tollway.simulator.bench.machine import Machine, inspect
from tollway.simulator.bench.project import Project
from tollway.simulator.bench.stack import Stack, StackOptions
from tollway.simulator.load.calls import CallPlan, CallResult
from tollway.simulator.load.plan import LoadPlan, LoadResult

__all__ = ["BenchOptions", "CallsMeasured", "LoadFailed", "Measured", "Watcher", "measure", "measure_calls"]


@dataclass(frozen=True)
class BenchOptions:
    """What the user chose; None leaves a scenario its own default.

    `plots` is where plots go, if they are wanted; `quick` asks for the short form of a scenario that has one.
    """

    tollway: tuple[str, ...]
    scratch: Path
    texts: tuple[str, ...]
    clients: int | None = None
    measure_s: float | None = None
    warmup_s: float | None = None
    workers: int | None = None
    keep: bool = False
    plots: Path | None = None
    quick: bool = False

    def draw(self, name: str, picture: Callable[[], str]) -> None:
        """Write a plot of that name, if plots are wanted."""
        if self.plots is not None:
            self.plots.mkdir(parents=True, exist_ok=True)
            (self.plots / name).write_text(picture(), encoding="utf-8")

    def stack(
        self,
        *,
        slots: int = 1000,
        workers: int = 1,
        provider: dict[str, Any] | None = None,
        project: Project | None = None,
    ) -> StackOptions:
        """A stack as the scenario wants it, and this user; the providers answer after 50 ms unless told otherwise."""
        return StackOptions(
            tollway=self.tollway,
            scratch=self.scratch,
            workers=workers if self.workers is None else self.workers,
            slots=slots,
            provider={"latency_s": 0.05, **(provider or {})},
            project=project or Project(),
            keep=self.keep,
        )

    def plan(self, stack: Stack, agent: str, **wishes: Any) -> LoadPlan:
        """A plan for `agent`; `wishes` are the scenario's, the user's choices come before them."""
        chosen = {"clients": self.clients, "measure_s": self.measure_s, "warmup_s": self.warmup_s}
        wishes |= {key: value for key, value in chosen.items() if value is not None}
        wishes = {"api_key": stack.api_key, "texts": list(self.texts), **wishes}
        return LoadPlan(port=stack.port, agent=agent, **wishes)


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


@dataclass(frozen=True)
class CallsMeasured:
    """What one load of single calls showed, CPU in seconds of the measured window."""

    load: CallResult
    spent: Spent
    generator_s: float
    provider_s: float
    elsewhere_s: float
    provider_calls: int
    before: Machine
    after: Machine

    def cpu_ms_per_call(self) -> dict[str, float]:
        """CPU milliseconds by role, a call answered in the window."""
        calls = max(1, self.load.answered_in_window)
        return {role: seconds * 1000 / calls for role, seconds in self.spent.by_role.items()}

    @property
    def cpu_ms_per_call_total(self) -> float:
        """CPU milliseconds of all of Tollway and Postgres, a call answered in the window."""
        return self.spent.total_s * 1000 / max(1, self.load.answered_in_window)


async def measure(
    stack: Stack, plan: LoadPlan, watcher: Watcher, during: Callable[[], Awaitable[None]] | None = None
) -> Measured:
    """Carry out `plan` against `stack`; `during` begins with the window and may disturb it.

    Raises LoadFailed or StackFailed when there is no result to speak of.
    """
    watcher.stage("calibrating")
    before = inspect(stack.folder)
    calls_before = await stack.provider_calls()
    idle = snapshot(stack.up.pid, stack.data_dir)
    watcher.stage("loading")
    job = Job(stack, plan, watcher, during)
    load = msgspec.convert(await job.run(), LoadResult)
    stack.check()
    watcher.stage("calibrating")
    calls = await stack.provider_calls() - calls_before
    costs = job.costs()
    return Measured(
        load=load,
        spent=costs.spent,
        generator_s=costs.generator_s,
        provider_s=costs.provider_s,
        elsewhere_s=costs.elsewhere_s,
        rss_idle=idle.rss_by_role(),
        rss_loaded=costs.rss_loaded,
        provider_calls=calls,
        before=before,
        after=inspect(stack.folder),
    )


async def measure_calls(stack: Stack, plan: CallPlan, watcher: Watcher) -> CallsMeasured:
    """The same with single calls, to a provider or over the wire."""
    watcher.stage("calibrating")
    before = inspect(stack.folder)
    calls_before = await stack.provider_calls()
    watcher.stage("loading")
    job = Job(stack, plan, watcher)
    load = msgspec.convert(await job.run(), CallResult)
    stack.check()
    calls = await stack.provider_calls() - calls_before
    costs = job.costs()
    return CallsMeasured(
        load=load,
        spent=costs.spent,
        generator_s=costs.generator_s,
        provider_s=costs.provider_s,
        elsewhere_s=costs.elsewhere_s,
        provider_calls=calls,
        before=before,
        after=inspect(stack.folder),
    )
