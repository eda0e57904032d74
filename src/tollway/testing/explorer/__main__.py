"""`python -m tollway.testing.explorer --seeds 500`: plays seeds, and tells of each that breaks a promise.

Exit code 0: none failed; 1: some did, each shown with its timeline and the command that plays it again.
"""

import argparse
import asyncio
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from tollway.testing.explorer.checks import violations
from tollway.testing.explorer.history import History
from tollway.testing.explorer.nursery import Nursery
from tollway.testing.explorer.plan import Plan, plan_of
from tollway.testing.explorer.scene import Scene, Stage
from tollway.testing.explorer.servers import Server

_SEED_WITHIN_S = 120.0


class Explorer:
    """Plays seeds, several at a time, on one server (and one more for seeds that crash theirs)."""

    def __init__(self, keep_logs: bool) -> None:
        self.failed: list[int] = []
        self.played = 0
        self._keep_logs = keep_logs
        self._folder = Path(tempfile.mkdtemp(prefix="tollway-explorer-"))
        self._nursery = Nursery(self._folder)
        self._steady = Server()
        self._crashed = Server()
        self._crash_ready = False

    async def explore(self, seeds: Sequence[int], jobs: int) -> None:
        """Play all seeds."""
        await self._nursery.start()
        try:
            await self._steady.start()
            left = iter(seeds)
            await asyncio.gather(*(self._play_on(left) for _ in range(jobs)))
        finally:
            await self._nursery.stop()
            await self._steady.stop()
            await self._crashed.stop()
            if not (self._keep_logs and self.failed):
                shutil.rmtree(self._folder, ignore_errors=True)

    async def _play_on(self, seeds: Iterator[int]) -> None:
        for seed in seeds:
            plan = plan_of(seed)
            if plan.crashes_database:
                async with self._crashed.lock:
                    if not self._crash_ready:
                        await self._crashed.start()
                        self._crash_ready = True
                    await self._play(plan, self._crashed)
            else:
                await self._play(plan, self._steady)

    async def _play(self, plan: Plan, server: Server) -> None:
        folder = self._folder / f"seed-{plan.seed}"
        folder.mkdir()
        began = time.monotonic()
        scene = Scene(plan, Stage(server, self._nursery, folder, _free_port()))
        history = History()
        try:
            async with asyncio.timeout(_SEED_WITHIN_S):
                history = await scene.play()
            wrong = scene.faults + violations(history)
        except Exception:
            wrong = [*scene.faults, traceback.format_exc()]
        self.played += 1
        took_s = time.monotonic() - began
        if wrong:
            self.failed.append(plan.seed)
            print(_report(scene, history, wrong, folder if self._keep_logs else None), flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            print(f"seed {plan.seed}: ok, {len(history.runs)} runs, {took_s:.1f} s", flush=True)


def _report(scene: Scene, history: History, wrong: Sequence[str], logs: Path | None) -> str:
    lines = [f"seed {scene.plan.seed}: FAILED", *(f"  {line}" for line in scene.plan.lines()), "  what is wrong:"]
    lines += [f"  - {sentence}" for sentence in wrong]
    told = list(scene.timeline)
    for run in history.runs:
        for event in history.events.get(run.id, ()):
            actor = f"{event.actor_kind} {event.actor_id}"
            text = f"run …{str(run.id)[-6:]} {run.agent} {event.seq} {event.type} by {actor} {event.data or ''}"
            told.append((event.at.timestamp(), text))
    lines.append("  timeline:")
    lines += [f"  {at - scene.began_at:8.3f}  {text}" for at, text in sorted(told)]
    if logs is not None:
        lines.append(f"  logs: {logs}")
    lines.append(f"  again: python -m tollway.testing.explorer --seed {scene.plan.seed}")
    return "\n".join(lines)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the seeds that the command line names; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tollway.testing.explorer", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, action="append", help="play this seed alone (may be repeated)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--keep-logs", action="store_true", help="keep the processes' logs of failed seeds")
    given = parser.parse_args(arguments)
    seeds = given.seed or range(given.first, given.first + given.seeds)
    explorer = Explorer(given.keep_logs)
    began = time.monotonic()
    uvloop.run(explorer.explore(seeds, max(1, given.jobs)))
    took_s = time.monotonic() - began
    print(f"{explorer.played} seeds in {took_s:.0f} s, {len(explorer.failed)} failed {explorer.failed or ''}".rstrip())
    return 1 if explorer.failed else 0


if __name__ == "__main__":
    sys.exit(main())
