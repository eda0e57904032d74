"""Documents: long runs, of which a backlog must slow none, and workers that come and go with it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tollway.simulator.accounting import snapshot
from tollway.simulator.bench import stock
from tollway.simulator.bench.harness import BenchOptions, Watcher
from tollway.simulator.bench.machine import inspect
from tollway.simulator.bench.plot import Line, Mark, svg
from tollway.simulator.bench.project import ONE_CALL, Project
from tollway.simulator.bench.report import Figure, ScenarioReport, disk_problems
from tollway.simulator.bench.stack import Stack, running
from tollway.simulator.bench.stock import RunLine
from tollway.simulator.load.latency import quantile

PLOT = "documents.svg"
LATENCY_S, SLOTS = 3.0, 50
FEW, MANY = 10, 400
FEW_ROUNDS, QUICK_FEW_ROUNDS = 10, 3
RATIO_MAX = 1.1
WORKERS_MAX, SCALED_SLOTS, WAVES, QUICK_WAVES = 4, 25, 3, 1
SHRUNK_S, DONE_S = 180.0, 120.0
_LOOK_EVERY_S = 0.5
_SECTIONS = {"worker": {"lanes": ["standard"], "grace_s": 20}}  # one lane: no slots are kept free for others


@dataclass
class Course:
    """How many workers there were and how many runs had not ended, over time; seconds since the first submit."""

    workers: list[tuple[float, float]] = field(default_factory=list)
    open_runs: list[tuple[float, float]] = field(default_factory=list)
    done_s: float = 0.0

    @property
    def most(self) -> int:
        """Workers at once."""
        return int(max((count for _, count in self.workers), default=0))

    @property
    def last(self) -> int:
        """Workers at the end."""
        return int(self.workers[-1][1]) if self.workers else 0

    def shrunk_after_s(self) -> float:
        """How long after the last run's end there was one worker for good; infinite when there never was."""
        late = [at for at, count in self.workers if count > 1]
        if not self.workers or self.workers[-1][1] > 1:
            return float("inf")
        return max(0.0, late[-1] - self.done_s) if late else 0.0


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """Claim to done of runs of 3 s of provider work, p99, with 400 queued and with 10; then `--autoscale 1..4`.

    The first on one worker of 50 slots. Then workers of 25 slots start and stop by the scaling signal while waves of
    400 runs come: every run must end once, and be paid once.
    """
    machine = inspect(options.scratch)
    watcher.stage("starting")
    steady = options.stack(slots=SLOTS, provider={"latency_s": LATENCY_S}, project=Project(sections=_SECTIONS))
    async with running(steady) as stack:
        watcher.stage(f"{FEW} queued")
        few: list[RunLine] = []
        for _ in range(QUICK_FEW_ROUNDS if options.quick else FEW_ROUNDS):
            few = await _queued(options, stack, FEW, len(few))
        watcher.stage(f"{MANY} queued")
        every = await _queued(options, stack, MANY, len(few))
    many = sorted(every, key=lambda one: one.created_s)[len(few) :]
    figures = _latency_figures(few, many)
    watcher.stage("starting: autoscale")
    scaled = replace(steady, slots=SCALED_SLOTS, autoscale=f"1..{WORKERS_MAX}")
    async with running(scaled) as stack:
        watcher.stage("workers come and go")
        waves = QUICK_WAVES if options.quick else WAVES
        course = await _waves(options, stack, waves)
        runs = await stock.read_runs(stack)
        calls = await stack.provider_calls()
    options.draw(PLOT, lambda: _plot(course))
    lost = [run for run in runs if run.state != "succeeded"]
    problems = [f"{len(lost)} of {len(runs)} runs did not succeed under autoscale"] if lost else []
    figures += [
        Figure(name="autoscale: most workers", value=course.most, unit="", bound=WORKERS_MAX, side="at least"),
        Figure(name="  workers at the end", value=course.last, unit="", bound=1),
        Figure(name="  one worker again after the last run in", value=round(course.shrunk_after_s(), 1), unit="s"),
        Figure(name="  runs that did not succeed", value=waves * MANY - len(runs) + len(lost), unit="", bound=0),
        Figure(name="  calls paid beyond one a run", value=calls - len(runs), unit="", bound=0),
    ]
    return ScenarioReport(
        scenario="documents", figures=figures, phases=[], problems=[*problems, *disk_problems(machine)]
    )


async def _queued(options: BenchOptions, stack: Stack, count: int, before: int) -> list[RunLine]:
    """Submit so many at once and wait until all have ended; returns every run that ever succeeded."""
    await _submit(options, stack, count)
    stop = time.monotonic() + DONE_S
    while time.monotonic() < stop:
        await asyncio.sleep(_LOOK_EVERY_S)
        if await stack.provider_calls() >= before + count:
            ended = await stock.read_runs(stack, state="succeeded")
            if len(ended) >= before + count:
                return ended
    return await stock.read_runs(stack, state="succeeded")


async def _submit(options: BenchOptions, stack: Stack, count: int) -> None:
    texts = options.texts
    bodies = [{"agent": ONE_CALL, "input": {"text": texts[n % len(texts)]}} for n in range(count)]
    await stock.submit(stack, stack.api_key, bodies)


async def _waves(options: BenchOptions, stack: Stack, waves: int) -> Course:
    """Each wave comes when the one before it is done; then wait until one worker is left."""
    course = Course()
    began = time.monotonic()
    for wave in range(waves):
        await _submit(options, stack, MANY)
        stop = time.monotonic() + DONE_S
        while time.monotonic() < stop:
            await asyncio.sleep(_LOOK_EVERY_S)
            if not await _look(stack, course, began, (wave + 1) * MANY):
                break
    course.done_s = time.monotonic() - began
    stop = time.monotonic() + SHRUNK_S
    while course.last > 1 and time.monotonic() < stop:
        await asyncio.sleep(_LOOK_EVERY_S)
        await _look(stack, course, began, waves * MANY)
    return course


async def _look(stack: Stack, course: Course, began: float, submitted: int) -> bool:
    """Note how it stands; whether runs are still to end."""
    stack.check()
    at = time.monotonic() - began
    workers = sum(1 for process in snapshot(stack.up.pid).processes.values() if process.role == "worker")
    open_runs = submitted - await stack.provider_calls()
    course.workers.append((at, float(workers)))
    course.open_runs.append((at, float(max(0, open_runs))))
    return open_runs > 0


def _latency_figures(few: Sequence[RunLine], many: Sequence[RunLine]) -> list[Figure]:
    few_s, many_s = (_claim_to_done_s(runs) for runs in (few, many))
    return [
        Figure(name=f"{FEW} queued: claim to done p99 of {len(few)}", value=round(few_s, 3), unit="s"),
        Figure(name=f"{MANY} queued: claim to done p99 of {len(many)}", value=round(many_s, 3), unit="s"),
        Figure(name="  against the few", value=round(many_s / few_s, 3), unit="times", bound=RATIO_MAX),
    ]


def _claim_to_done_s(runs: Sequence[RunLine]) -> float:
    took = [run.ended_s - run.started_s for run in runs if run.ended_s is not None and run.started_s is not None]
    return quantile(sorted(took), 0.99) if took else float("inf")


def _plot(course: Course) -> str:
    lines = [
        Line(f"workers, of {WORKERS_MAX}", [(at, count / WORKERS_MAX) for at, count in course.workers]),
        Line(f"open runs, of {MANY}", [(at, count / MANY) for at, count in course.open_runs]),
    ]
    marks = [Mark(course.done_s, "all done")]
    return svg(f"Workers that come and go with runs of {LATENCY_S:.0f} s (--autoscale 1..{WORKERS_MAX})", lines, marks)
