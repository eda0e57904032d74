"""Ten times as much as can be done, for two minutes: what is done meanwhile, and how soon all is as before."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from tollway.simulator.bench.harness import BenchOptions, Measured, Watcher, measure
from tollway.simulator.bench.job import Job
from tollway.simulator.bench.plot import Line, Mark, svg
from tollway.simulator.bench.project import ONE_CALL, Project
from tollway.simulator.bench.report import Figure, ScenarioReport, disk_problems, phase, run_problems
from tollway.simulator.bench.stack import Stack, running
from tollway.simulator.bench.throughput import normal_after_s, rate_course, wait_course
from tollway.simulator.load.plan import LoadPlan, LoadResult

PLOT = "overload.svg"
SLOTS, LATENCY_S = 25, 0.5
MAX_WAIT_S = 5.0
USUAL_SHARE, OVERLOAD = 0.7, 10.0
CALIBRATE_S, BEFORE_S, OVERLOAD_S, AFTER_S = 15.0, 20.0, 120.0, 75.0
QUICK_OVERLOAD_S, QUICK_AFTER_S = 20.0, 45.0
SPAN_S = 5.0
GOODPUT_MIN, NORMAL_S, NORMAL_AFTER_S = 90.0, 0.5, 60.0
_CONNECTIONS, _CONNECTIONS_USUAL, _CLIENTS_FULL = 1500, 600, 4 * SLOTS
_POLL_S = 0.5
_SERIALS = 100_000_000


@dataclass(frozen=True)
class Found:
    """What was seen: the capacity, the usual load, the one on top of it, and when that began and ended."""

    per_s: float
    usual: Measured
    surge: LoadResult
    since_s: float
    began_s: float
    over_s: float
    until_s: float

    @property
    def ended(self) -> list[float]:
        """When runs succeeded."""
        return [run.ended_s for load in (self.usual.load, self.surge) for run in load.runs]

    def goodput(self) -> list[tuple[float, float]]:
        """Runs a second, seconds since the begin."""
        return rate_course(self.ended, self.since_s, self.until_s, SPAN_S)

    def waits(self) -> list[tuple[float, float]]:
        """The median wait of the usual load's runs and of the surge's."""
        runs = [*self.usual.load.runs, *self.surge.runs]
        return wait_course(runs, LATENCY_S, self.since_s, self.until_s, SPAN_S)


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """Goodput and waits of a worker of 25 slots and runs of 500 ms, whose lane allows a wait of 5 s.

    First all that it can do is measured, then it gets 70 % of it; after 20 s, ten times as much comes for two minutes,
    by clients who do not try again when they are refused (--quick: 20 s). Refusals must say when to come again.
    """
    watcher.stage("starting")
    options = replace(options, measure_s=None, warmup_s=None, clients=None)
    seconds = (QUICK_OVERLOAD_S, QUICK_AFTER_S) if options.quick else (OVERLOAD_S, AFTER_S)
    project = Project(sections={"worker": {"lanes": ["standard"]}, "lanes.standard": {"max_wait_s": MAX_WAIT_S}})
    async with running(options.stack(slots=SLOTS, provider={"latency_s": LATENCY_S}, project=project)) as stack:
        found = await _measure(options, stack, watcher, *seconds)
    options.draw(PLOT, lambda: _plot(found))
    loads = {"usual load": found.usual.load, "overload": found.surge}
    return ScenarioReport(
        scenario="overload",
        figures=figures(found),
        phases=[phase("usual load", found.usual)],
        problems=[
            *(f"{name}: {text}" for name, load in loads.items() for text in run_problems(load)),
            *disk_problems(found.usual.before),
        ],
    )


def figures(found: Found) -> list[Figure]:
    """Goodput during the overload, refusals, and the way back."""
    began, over = found.began_s - found.since_s, found.over_s - found.since_s
    during = [rate for at, rate in found.goodput() if began + SPAN_S <= at <= over]
    refused = sum(sum(load.refused.values()) for load in (found.usual.load, found.surge))
    back_s = normal_after_s(found.waits(), over, NORMAL_S)
    waits = [wait for at, wait in found.waits() if began < at <= over]
    return [
        Figure(name="capacity", value=round(found.per_s, 1), unit="runs/s"),
        Figure(
            name=f"goodput in the worst {SPAN_S:.0f} s of the overload",
            value=round(100 * min(during, default=0.0) / found.per_s, 1),
            unit="% of capacity",
            bound=GOODPUT_MIN,
            side="at least",
        ),
        Figure(name="  of all of it", value=round(100 * _mean(during) / found.per_s, 1), unit="% of capacity"),
        Figure(name="submits refused", value=refused, unit=""),
        Figure(name="longest median wait meanwhile", value=round(max(waits, default=0.0), 2), unit="s"),
        Figure(name="waits as before after", value=round(back_s, 1), unit="s", bound=NORMAL_AFTER_S),
    ]


async def _measure(options: BenchOptions, stack: Stack, watcher: Watcher, overload_s: float, after_s: float) -> Found:
    watcher.stage("measuring what it can do")
    full = options.plan(
        stack, ONE_CALL, clients=_CLIENTS_FULL, warmup_s=CALIBRATE_S / 3, measure_s=CALIBRATE_S, poll_s=_POLL_S
    )
    per_s = msgspec.convert(await Job(stack, full, watcher).run(), LoadResult).runs_per_s
    moments: list[float] = []
    surges: list[LoadResult] = []

    async def surge() -> None:
        moments.append(time.time())
        await asyncio.sleep(BEFORE_S)
        moments.append(time.time())
        plan = _plan(options, stack, per_s * (OVERLOAD - USUAL_SHARE), overload_s, 1)
        job = asyncio.ensure_future(Job(stack, plan, watcher).run())
        try:
            await asyncio.sleep(overload_s)
            moments.append(time.time())
            surges.append(msgspec.convert(await job, LoadResult))
        finally:
            job.cancel()

    usual = _plan(options, stack, per_s * USUAL_SHARE, BEFORE_S + overload_s + after_s, 0)
    measured = await measure(stack, usual, watcher, surge)
    since_s, began_s, over_s = moments
    return Found(per_s, measured, surges[0], since_s, began_s, over_s, over_s + after_s)


def _plan(options: BenchOptions, stack: Stack, per_s: float, seconds: float, number: int) -> LoadPlan:
    return options.plan(
        stack,
        ONE_CALL,
        clients=_CONNECTIONS if number else _CONNECTIONS_USUAL,
        rate_per_s=per_s,
        warmup_s=0,
        measure_s=seconds,
        poll_s=_POLL_S,
        provider_s=LATENCY_S,
        first_serial=(number + 1) * _SERIALS,
        keep_runs=True,
        gives_up=True,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _plot(found: Found) -> str:
    lines = [
        Line("goodput, of capacity", [(at, rate / found.per_s) for at, rate in found.goodput()]),
        Line(f"median wait, of {MAX_WAIT_S:.0f} s", [(at, wait / MAX_WAIT_S) for at, wait in found.waits()]),
    ]
    title = f"Ten times as much as {SLOTS} slots can do, over {SPAN_S:.0f} s each"
    return svg(title, lines, [Mark(found.began_s - found.since_s, "10 x overload", found.over_s - found.since_s)])
