"""Provider limits are used, not hit (P5): four processes share three routes, all of them flooded from the start."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from tollway.hotstate.capacity import LEASE_TTL_S
from tollway.simulator.accounting import snapshot
from tollway.simulator.bench import flood
from tollway.simulator.bench.flood import CALLS_PER_RUN, FAIR, FLOODS, LIMITS, REQUESTS
from tollway.simulator.bench.harness import BenchOptions, Watcher
from tollway.simulator.bench.machine import inspect
from tollway.simulator.bench.plot import Line, Mark, svg
from tollway.simulator.bench.provider import arrived_s
from tollway.simulator.bench.report import Figure, ScenarioReport, disk_problems, run_problems
from tollway.simulator.bench.stack import Stack, running
from tollway.simulator.bench.utilisation import back_after_s, course_of, use_of
from tollway.simulator.load.plan import LoadResult

SATURATION_S, WINDOW_S = 12, 60
SHARE_MIN, FAIR_MIN = 0.97, 0.8
PLOT = "limits.svg"
_BEFORE_KILL_S, _AFTER_KILL_S = 1.0, 9.0
_BACK_SPAN_S = 2.0
_SMOOTH_S = 5
_NAMES = {
    "sim-requests": "12,000 requests a minute",
    "sim-tokens": "600,000 tokens a minute",
    "sim-small": "600 requests a minute",
}


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """Utilisation and 429s by the provider's account, fairness over a minute, and the share of a worker that is killed.

    Bound by requests, by tokens in a mix of sizes, and by few requests; measured from 10 s after saturation. The worker
    dies after the minute: until its lease ends nobody may use its share.
    """
    watcher.stage("starting")
    async with running(
        options.stack(workers=flood.WORKERS, slots=flood.SLOTS, provider=flood.provider(), project=flood.project())
    ) as stack:
        machine = inspect(stack.folder)
        course = _Course(stack, int(options.measure_s or WINDOW_S))
        seconds = (SATURATION_S, course.window_s + _BEFORE_KILL_S + _AFTER_KILL_S)
        watcher.stage("loading")
        results = await flood.flood(options, stack, watcher, course.run, seconds)
        stack.check()
        arrivals = sorted(
            arrived_s(row)
            for row in await stack.providers[0].rows()
            if row.model == REQUESTS.model and row.status == 200
        )
    options.draw(PLOT, lambda: _plot(course))
    problems = [f"{each.tenant}'s {each.agent}: {text}" for each, load in _each(results) for text in run_problems(load)]
    return ScenarioReport(
        scenario="limits",
        figures=[*_limit_figures(course), *_fair_figures(course, results), _back_figure(course, arrivals)],
        phases=[],
        problems=[*problems, *disk_problems(machine)],
    )


@dataclass
class _Course:
    """What happens within the measured time, and when: epoch seconds, and seconds of the provider's meter."""

    stack: Stack
    window_s: int
    began_s: float = 0.0
    killed_s: float = 0.0
    began_second: int = 0
    killed_second: float = 0.0
    ended_second: int = 0
    rows: dict[str, list[list[int]]] = field(default_factory=dict)

    async def run(self) -> None:
        """A minute of measuring, then a worker dies."""
        provider = self.stack.providers[0]
        self.began_s = time.time()
        self.began_second = int((await provider.meter())["now_s"]) + 1
        await asyncio.sleep(self.window_s + _BEFORE_KILL_S)
        self.killed_second = (await provider.meter(1 << 30))["now_s"]
        self.killed_s = time.time()
        os.kill(self._a_worker(), signal.SIGKILL)
        await asyncio.sleep(_AFTER_KILL_S)
        told = await provider.meter()
        self.ended_second = int(told["now_s"])
        self.rows = told["models"]

    def _a_worker(self) -> int:
        processes = snapshot(self.stack.up.pid).processes.values()
        return min(process.pid for process in processes if process.role == "worker")


def _each(results: list[LoadResult]) -> list[tuple[flood.Flood, LoadResult]]:
    return list(zip(FLOODS, results, strict=True))


def _limit_figures(course: _Course) -> list[Figure]:
    figures = []
    for limit in LIMITS:
        use = use_of(limit, course.rows.get(limit.model, []), course.began_second, course.window_s)
        name = _NAMES[limit.model]
        share = Figure(name=f"{name}: used", value=round(100 * use.share, 2), unit="%", bound=97, side="at least")
        refused = Figure(name=f"{name}: 429s of {use.calls} calls", value=use.refused, unit="", bound=use.refused_max)
        figures += [share, refused]
    return figures


def _fair_figures(course: _Course, results: list[LoadResult]) -> list[Figure]:
    """Calls a second by flow and by tenant, against a quarter and a half of what all of them got."""
    calls: dict[tuple[str, str], float] = {}
    for each, load in _each(results)[: len(FAIR)]:
        since, until = course.began_s, course.began_s + course.window_s
        ended = sum(1 for seen in load.runs if since <= seen.ended_s < until)
        calls[each.tenant, each.agent] = ended * CALLS_PER_RUN / course.window_s
    whole = sum(calls.values()) or 1.0
    tenants: dict[str, float] = {}
    for (tenant, _), rate in calls.items():
        tenants[tenant] = tenants.get(tenant, 0.0) + rate
    least_flow = min(calls.values()) * len(calls) / whole
    least_tenant = min(tenants.values()) * len(tenants) / whole
    said: dict[str, Any] = {"unit": "% of its fair share", "bound": 100 * FAIR_MIN, "side": "at least"}
    return [
        *(
            Figure(name=f"{tenant}'s {agent}", value=round(rate, 1), unit="/s")
            for (tenant, agent), rate in calls.items()
        ),
        Figure(name="least served agent of a tenant", value=round(100 * least_flow, 1), **said),
        Figure(name="least served tenant", value=round(100 * least_tenant, 1), **said),
    ]


def _back_figure(course: _Course, arrivals: list[float]) -> Figure:
    after_s = back_after_s(arrivals, course.killed_s, REQUESTS.per_s, _BACK_SPAN_S, SHARE_MIN)
    return Figure(
        name="a killed worker's share is used again after", value=round(after_s, 2), unit="s", bound=LEASE_TTL_S
    )


def _plot(course: _Course) -> str:
    first = max(0, course.began_second - SATURATION_S)
    lines = [
        Line(
            _NAMES[limit.model],
            course_of(limit, course.rows.get(limit.model, []), first, course.ended_second, _SMOOTH_S),
        )
        for limit in LIMITS
    ]
    title = f"Use of a provider's limits by {flood.WORKERS} processes, its own count, over {_SMOOTH_S} s"
    return svg(title, lines, [Mark(course.killed_second - first, "a worker is killed")])
