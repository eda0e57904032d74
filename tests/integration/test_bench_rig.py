"""The benchmark of the queue alone, at a hundredth of its size, on a server of its own."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

from tollway.simulator.bench.harness import BenchOptions
from tollway.simulator.bench.machine import inspect
from tollway.simulator.bench.queue_costs import Held
from tollway.simulator.bench.queue_rig import QueueRig, queue_rig
from tollway.simulator.bench.queue_worker import QueueWorker
from tollway.simulator.bench.scenarios.backlog import Scale, measure, report

SMALL = Scale(
    tenants=20,
    through=300,
    queued=3000,
    blocked=300,
    first=200,
    window_s=0.3,
    windows=2,
    held=Held(per_s=400, before_s=0.5, held_s=1.0, after_s=1.0, step_s=0.25),
)


class Silent:
    """A watcher that says nothing."""

    def stage(self, text: str) -> None:
        """What is being done."""

    def load(self, *_: Any) -> None:
        """How far it is."""


def in_rig(scratch: Path, act: Any) -> Any:
    """What `act` returns of a rig in a folder that is empty again afterwards."""

    async def inside() -> Any:
        async with queue_rig(scratch) as rig:
            return await act(rig)

    found = asyncio.run(inside())
    assert list(scratch.iterdir()) == []
    return found


def test_every_figure_of_the_backlog_comes_out(tmp_path: Path) -> None:
    """Runs pass, wait, are blocked and are claimed beside a held snapshot; all of it leaves figures, and no folder."""
    found = in_rig(tmp_path, lambda rig: measure(rig, SMALL, Silent()))
    told = report(found, SMALL, inspect(tmp_path))
    assert all(figure.value >= 0 for figure in told.figures if "without them" not in figure.name)
    assert {size.name for size in found.last_sizes} == {"queue", "flow", "flow_floor"}
    assert [window.runs > 0 for window in found.queued] == [True, True]
    assert found.course[-1].at_s >= SMALL.held.whole_s - 0.1
    assert BenchOptions(("tollway",), tmp_path, ("x",)).quick is False


def test_claimers_do_all_that_was_queued_once(tmp_path: Path) -> None:
    """Two claimers end each run of the queue, and then find nothing more."""

    async def act(rig: QueueRig) -> tuple[int, int]:
        names = [f"t{number}" for number in range(7)]
        await rig.tenants(names)
        await rig.accept(250, itertools.cycle(names))
        workers = [await QueueWorker.of(rig) for _ in range(2)]
        await asyncio.gather(workers[0].work(125), workers[1].work(125))
        return sum(worker.done for worker in workers), len(await workers[0].claim())

    assert in_rig(tmp_path, act) == (250, 0)
