"""`python -m explorer --seeds 500 --jobs 2`, or `--seed 17` to play one again; exit 1 when a promise was broken.

A seed fixes the workload and what befalls which process when; the interleaving is the machine's own, so a rare failure
may take some repetitions of its seed (`--times`).
"""

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator

import uvloop

from .drive import Verdict
from .world import World
from .zygote import Zygote


def main() -> int:
    """Explore; the exit code."""
    parser = argparse.ArgumentParser(
        prog="explorer", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, default=None, help="this seed alone")
    parser.add_argument("--times", type=int, default=1, help="play every seed so often")
    parser.add_argument("--jobs", type=int, default=2, help="explorations at once")
    parser.add_argument("--verbose", action="store_true", help="show every timeline")
    asked = parser.parse_args()
    zygote = Zygote.start()
    return uvloop.run(_explore(asked, zygote))


async def _explore(asked: argparse.Namespace, zygote: Zygote) -> int:
    exploring = asyncio.current_task()
    assert exploring is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, exploring.cancel)
    await zygote.connect()
    world = World(zygote)
    chosen = range(asked.first, asked.first + asked.seeds) if asked.seed is None else [asked.seed]
    seeds = iter([seed for seed in chosen for _ in range(asked.times)])
    began, came = time.monotonic(), Counter[str]()
    verdicts: list[Verdict] = []

    async def work(seeds: Iterator[int]) -> None:
        for seed in seeds:
            verdict = await world.explore(seed)
            verdicts.append(verdict)
            came.update(verdict.came)
            _report(verdict, asked.verbose)

    try:
        await asyncio.gather(*(work(seeds) for _ in range(asked.jobs)))
    finally:
        await world.close()
        await zygote.close()
    bad = sorted({verdict.seed for verdict in verdicts if verdict.faults})
    print(
        f"{len(verdicts)} explorations in {time.monotonic() - began:.0f} s,",
        f"{len(bad)} seeds failed{': ' if bad else ''}",
        *bad,
    )
    print("disturbances that came:", ", ".join(f"{what} {times}" for what, times in sorted(came.items())))
    return 1 if bad else 0


def _report(verdict: Verdict, verbose: bool) -> None:
    if not verdict.faults:
        print(f"seed {verdict.seed}: held, {verdict.took_s:.1f} s, {verdict.came.total()} disturbances", flush=True)
    if verdict.faults or verbose:
        print(f"seed {verdict.seed}: {len(verdict.faults)} faults, {verdict.took_s:.1f} s")
        for fault in verdict.faults:
            print(f"  FAULT {fault}")
        print(*verdict.timeline, sep="\n")
        print(f"  again: make explore SEED={verdict.seed}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
