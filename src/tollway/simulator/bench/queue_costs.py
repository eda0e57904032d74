"""CPU of the server by what it was spent on: windows of work by claimers, and a course of them over time."""

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tollway.simulator.bench.queue_rig import QueueRig
from tollway.simulator.bench.queue_worker import QueueWorker

_DEPTH = 400
_FEED = 200
_FEED_PAUSE_S = 0.005
_WITHOUT_END = 1 << 60


@dataclass(frozen=True)
class Window:
    """What a span of work cost: microseconds of the server's CPU a run, for claims and for ends; ours beside it."""

    runs: int
    claim_us: float
    end_us: float
    ours_us: float

    @property
    def whole_us(self) -> float:
        """Claim and completion, Postgres only."""
        return self.claim_us + self.end_us


@dataclass(frozen=True)
class Point:
    """A window within a course: seconds from its begin, and what a claim cost in microseconds."""

    at_s: float
    claim_us: float


def median_us(windows: Sequence[Window]) -> float:
    """Of claim and completion, over windows."""
    return statistics.median(window.whole_us for window in windows)


class Meter:
    """What the claimers have done and the server spent on it since the last reading."""

    def __init__(self, rig: QueueRig, workers: Sequence[QueueWorker]) -> None:
        self._rig = rig
        self._workers = workers
        self._last = self._read()

    def read(self) -> Window:
        """The window from the last reading until now."""
        before, self._last = self._last, self._read()
        runs, claim_s, end_s, ours_s = (now - then for now, then in zip(self._last, before, strict=True))
        each = 1e6 / max(1.0, runs)
        return Window(int(runs), claim_s * each, end_s * each, ours_s * each)

    def _read(self) -> tuple[float, float, float, float]:
        spent = self._rig.cpu_s()
        # a KeyError: a connection was replaced, and what its backends spent cannot be told any more
        claim_s = sum(spent[worker.backends.claiming] for worker in self._workers)
        end_s = sum(spent[worker.backends.ending] for worker in self._workers)
        return float(sum(worker.done for worker in self._workers)), claim_s, end_s, time.process_time()


async def windows(rig: QueueRig, workers: Sequence[QueueWorker], count: int, seconds: float) -> list[Window]:
    """Work through what is queued, as fast as it goes."""
    found = []
    for _ in range(count):
        meter = Meter(rig, workers)
        until_s = time.monotonic() + seconds
        await asyncio.gather(*(worker.work(_WITHOUT_END, until_s) for worker in workers))
        found.append(meter.read())
    return found


async def through(rig: QueueRig, workers: Sequence[QueueWorker], tenants: Iterator[str], runs: int) -> Window:
    """Accept and work through so many runs; a few hundred are queued at any time."""
    meter, began = Meter(rig, workers), sum(worker.done for worker in workers)
    share, rest = divmod(runs, len(workers))
    working = [asyncio.ensure_future(one.work(share + (n < rest))) for n, one in enumerate(workers)]
    try:
        accepted = 0
        while accepted < runs:
            if accepted - sum(worker.done for worker in workers) + began < _DEPTH:
                count = min(_FEED, runs - accepted)
                await rig.accept(count, tenants)
                accepted += count
            else:
                await asyncio.sleep(_FEED_PAUSE_S)
            for task in working:
                if task.done():
                    task.result()
        await asyncio.gather(*working)
    finally:
        for task in working:
            task.cancel()
    return meter.read()


@dataclass(frozen=True)
class Held:
    """A steady course of so many runs a second, each replaced when done: before, during and after a snapshot."""

    per_s: float
    before_s: float
    held_s: float
    after_s: float
    step_s: float

    @property
    def over_s(self) -> float:
        """When the snapshot is let go."""
        return self.before_s + self.held_s

    @property
    def whole_s(self) -> float:
        """How long it takes."""
        return self.over_s + self.after_s


async def held_course(rig: QueueRig, workers: Sequence[QueueWorker], tenants: Iterator[str], plan: Held) -> list[Point]:
    """What a claim costs while somebody else holds a snapshot, before and after."""
    began = time.monotonic()
    until_s = began + plan.whole_s
    pace = plan.per_s / len(workers)
    tasks = [asyncio.ensure_future(worker.work(_WITHOUT_END, until_s, pace)) for worker in workers]
    tasks += [asyncio.ensure_future(_hold(rig, plan)), asyncio.ensure_future(_replace(rig, workers, tenants, until_s))]
    meter, points = Meter(rig, workers), []
    try:
        while (at_s := time.monotonic() - began) < plan.whole_s:
            await asyncio.sleep(min(plan.step_s, plan.whole_s - at_s))
            points.append(Point(time.monotonic() - began, meter.read().claim_us))
            for task in tasks:
                if task.done():
                    task.result()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return points


async def _hold(rig: QueueRig, plan: Held) -> None:
    """One transaction that sees the record as it was when it began, as a long report or a backup does."""
    await asyncio.sleep(plan.before_s)
    until_s = time.monotonic() + plan.held_s
    async with rig.snapshot() as look:
        while (left_s := until_s - time.monotonic()) > 0:
            await look()
            await asyncio.sleep(min(10.0, left_s))


async def _replace(rig: QueueRig, workers: Sequence[QueueWorker], tenants: Iterator[str], until_s: float) -> None:
    """Accept a run for each that was done."""
    replaced = sum(worker.done for worker in workers)
    while time.monotonic() < until_s:
        await asyncio.sleep(0.25)
        done = sum(worker.done for worker in workers)
        await rig.accept(done - replaced, tenants)
        replaced = done


def held_ratio(points: Sequence[Point], plan: Held) -> float:
    """What a claim costs at the end of the time with a snapshot, its last tenth, of what it did before."""
    last = [
        each.claim_us for each in points if plan.over_s - max(plan.step_s, plan.held_s / 10) < each.at_s <= plan.over_s
    ]
    return statistics.median(last) / usual_us(points, plan) if last else float("inf")


def usual_us(points: Sequence[Point], plan: Held) -> float:
    """What a claim costs undisturbed."""
    return statistics.median(each.claim_us for each in points if each.at_s <= plan.before_s + plan.step_s / 2)


def normal_after_s(points: Sequence[Point], plan: Held, tolerance: float = 1.25) -> float:
    """How long after the snapshot's end claims cost what they used to, for good; infinite if they never do."""
    usual = usual_us(points, plan)
    late = [each.at_s for each in points if each.at_s > plan.over_s and each.claim_us > tolerance * usual]
    if not late:
        return 0.0
    return float("inf") if late[-1] >= points[-1].at_s else late[-1] - plan.over_s
