"""What claiming and ending a run costs PostgreSQL, whatever waits, was done before, or is looked at elsewhere."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tollway.record.sizes import TableSize
from tollway.simulator.bench import queue_costs
from tollway.simulator.bench.harness import BenchOptions, Watcher
from tollway.simulator.bench.machine import Machine, inspect
from tollway.simulator.bench.plot import Line, Mark, svg
from tollway.simulator.bench.queue_costs import Held, Point, Window, median_us
from tollway.simulator.bench.queue_rig import QueueRig, queue_rig
from tollway.simulator.bench.queue_worker import QueueWorker
from tollway.simulator.bench.report import Figure, ScenarioReport, disk_problems

PLOT = "backlog.svg"
CLAIMERS = 2
_FIRST_RUNS = 10_000
_PAUSED, _KEYED = 100, 100
_HOLDER = "holder"
_HOUR_S = 3600.0
_SMALL_BYTES = 1 << 20  # a few pages more or less say nothing
_HELD = Held(per_s=1000, before_s=60, held_s=600, after_s=120, step_s=10)


@dataclass(frozen=True)
class Scale:
    """How much of everything; runs, tenants, and windows of `window_s` seconds."""

    tenants: int = 10_000
    through: int = 1_000_000
    queued: int = 1_000_000
    blocked: int = 500_000
    first: int = _FIRST_RUNS
    window_s: float = 4.0
    windows: int = 5
    held: Held = _HELD


QUICK = Scale(
    tenants=1000,
    through=40_000,
    queued=100_000,
    blocked=50_000,
    window_s=2.0,
    windows=3,
    held=Held(per_s=1000, before_s=10, held_s=60, after_s=30, step_s=5),
)


@dataclass(frozen=True)
class Found:
    """What was measured, in the order of measuring."""

    first_sizes: Sequence[TableSize]
    last_sizes: Sequence[TableSize]
    empty: Sequence[Window]
    queued: Sequence[Window]
    blocked: Sequence[Window]
    course: Sequence[Point]


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """CPU a run with nothing queued, with 1,000,000 queued over 10,000 tenants, with 500,000 blocked beside them; the
    size of the hot tables after 10,000 runs and after 1,000,000; the cost of a claim while a snapshot is held.

    Two claimers of batches of 20 on the record alone: CPU is that of the server's processes that serve them. The short
    form (--quick) holds a tenth of the runs and the snapshot for one minute.
    """
    scale = QUICK if options.quick else Scale()
    machine = inspect(options.scratch)
    watcher.stage("starting")
    async with queue_rig(options.scratch, keep=options.keep) as rig:
        found = await measure(rig, scale, watcher)
    options.draw(PLOT, lambda: _plot(found.course, scale.held))
    return report(found, scale, machine)


async def measure(rig: QueueRig, scale: Scale, watcher: Watcher) -> Found:
    """All of it, on one record."""
    names = [f"t{number}" for number in range(scale.tenants)]
    await rig.tenants(names)
    tenants = itertools.cycle(names)
    workers = [await QueueWorker.of(rig) for _ in range(CLAIMERS)]
    watcher.stage(f"{scale.first:,} runs through a small queue")
    await queue_costs.through(rig, workers, tenants, scale.first)
    first_sizes = await rig.sizes()
    watcher.stage(f"{scale.through:,} runs through a small queue")
    parts = scale.windows + 1
    empty = [await queue_costs.through(rig, workers, tenants, scale.through // parts) for _ in range(parts)][1:]
    last_sizes = await rig.sizes()
    watcher.stage(f"queueing {scale.queued:,} runs")
    await rig.accept(scale.queued, tenants)
    await rig.vacuumed()
    watcher.stage(f"{scale.queued:,} runs queued")
    queued = await queue_costs.windows(rig, workers, scale.windows, scale.window_s)
    watcher.stage(f"queueing {scale.blocked:,} blocked runs")
    await _block(rig, scale.blocked)
    await rig.vacuumed()
    watcher.stage(f"{scale.blocked:,} of them blocked")
    blocked = await queue_costs.windows(rig, workers, scale.windows, scale.window_s)
    watcher.stage(f"a snapshot held for {scale.held.held_s:.0f} s")
    course = await queue_costs.held_course(rig, workers, tenants, scale.held)
    return Found(first_sizes, last_sizes, empty, queued, blocked, course)


def report(found: Found, scale: Scale, machine: Machine) -> ScenarioReport:
    """Figures and their bounds."""
    empty, queued, blocked = (median_us(each) for each in (found.empty, found.queued, found.blocked))
    held = scale.held
    return ScenarioReport(
        scenario="backlog",
        figures=[
            Figure(name="claim and completion, small queue", value=round(empty, 1), unit="µs a run"),
            Figure(name="  of which claim", value=_claim_us(found.empty), unit="µs a run"),
            Figure(name=f"with {scale.queued:,} queued", value=round(queued, 1), unit="µs a run"),
            Figure(name="  of which claim", value=_claim_us(found.queued), unit="µs a run"),
            Figure(name="  against the small queue", value=round(queued / empty, 3), unit="times", bound=1.3),
            Figure(name=f"with {scale.blocked:,} blocked, too", value=round(blocked, 1), unit="µs a run"),
            Figure(name="  against without them", value=round(100 * (blocked / queued - 1), 1), unit="% more", bound=5),
            *_size_figures(found, scale),
            Figure(
                name=f"a claim after {held.held_s:.0f} s of a held snapshot, against before",
                value=round(queue_costs.held_ratio(found.course, held), 2),
                unit="times",
                bound=2.2,
            ),
            Figure(
                name="  as before again after its end in",
                value=round(queue_costs.normal_after_s(found.course, held), 1),
                unit="s",
                bound=60,
            ),
        ],
        phases=[],
        problems=disk_problems(machine),
    )


async def _block(rig: QueueRig, count: int) -> None:
    """A third waits for its time, a third for its tenant, a third for a run that holds its concurrency key."""
    third = count // 3
    paused = [f"p{number}" for number in range(_PAUSED)]
    keyed = [f"k{number}" for number in range(_KEYED)]
    await rig.tenants(paused, paused=True)
    await rig.tenants(keyed)
    await rig.accept(third, itertools.cycle(keyed + paused), delay_s=_HOUR_S)
    await rig.accept(third, itertools.cycle(paused))
    await rig.accept(_KEYED, iter(keyed), agent=_HOLDER, concurrency_key="account", concurrency_policy="queue")
    holder = await QueueWorker.of(rig, _HOLDER)
    held = 0
    while held < _KEYED:
        held += len(await holder.claim())
    await rig.accept(third, itertools.cycle(keyed), concurrency_key="account", concurrency_policy="queue")


def _claim_us(windows: Sequence[Window]) -> float:
    return round(sorted(window.claim_us for window in windows)[len(windows) // 2], 1)


def _size_figures(found: Found, scale: Scale) -> Iterator[Figure]:
    first = {size.name: size for size in found.first_sizes}
    for size in found.last_sizes:
        before = first[size.name].whole_bytes
        yield Figure(
            name=f"table {size.name} and its indexes after {scale.first + scale.through:,} runs",
            value=round(size.whole_bytes / 2**20, 2),
            unit="MiB",
        )
        yield Figure(
            name=f"  against after {scale.first:,}",
            value=round(size.whole_bytes / before, 2),
            unit="times",
            bound=2 if size.whole_bytes >= _SMALL_BYTES else None,
        )


def _plot(course: Sequence[Point], held: Held) -> str:
    usual = queue_costs.usual_us(course, held)
    line = Line("CPU of a claim, of that before", [(each.at_s, each.claim_us / usual) for each in course])
    title = f"What a claim costs PostgreSQL while a snapshot is held, at {held.per_s:,.0f} runs a second"
    top = max(2.4, max(share for _, share in line.points) * 1.1)
    return svg(title, [line], [Mark(held.before_s, "a snapshot is held", held.over_s)], top)
