"""A stream of customers' messages in which 40 % have been there before: the exact cache answers those, nobody else."""

import random
from collections.abc import Sequence

from tollway.simulator.bench.harness import BenchOptions, Watcher, measure
from tollway.simulator.bench.project import Project
from tollway.simulator.bench.report import Figure, ScenarioReport, disk_problems, phase, run_problems
from tollway.simulator.bench.stack import running

AGENT = "bench_cached"
WORKERS = 2
RATE_PER_S = 60.0
SECONDS = 20.0
SHARE = 0.4
CLIENTS = 200
POINTS_MAX = 1.0
_SEED = 77

PROJECT = Project(
    agents=f'''"""An agent whose calls may be answered from the cache."""

import tollway


@tollway.agent(name="{AGENT}", tier="fast", lane="standard", timeout=300)
async def cached(run: tollway.Run, ticket: dict[str, str]) -> dict[str, str]:
    reply = await run.llm(f"Which team should answer this customer? {{ticket['text']}}", max_tokens=20, cache="exact")
    return {{"text": reply.text}}
'''
)


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """Hits by the runs' own account, and calls in the provider's ledger, against what the stream allows.

    A message repeats one chosen among all before it. One that comes while its first is still under way at the other
    worker is called again: only what is over is kept between processes.
    """
    watcher.stage("starting")
    seconds = options.measure_s or SECONDS
    texts = stream(options.texts, int(RATE_PER_S * seconds * 1.2), SHARE, _SEED)
    async with running(options.stack(workers=WORKERS, project=PROJECT)) as stack:
        plan = options.plan(
            stack,
            AGENT,
            clients=CLIENTS,
            rate_per_s=RATE_PER_S,
            warmup_s=0.0,
            measure_s=seconds,
            texts=texts,
            numbered=False,
        )
        measured = await measure(stack, plan, watcher)
    load = measured.load
    sent = min(load.accepted, len(texts))
    possible = _points(sent - len(set(texts[:sent])), sent)
    hits = _points(load.without_call, load.accepted)
    saved = _points(load.accepted - measured.provider_calls, load.accepted)
    problems = run_problems(load) + disk_problems(measured.before)
    if load.refused or load.accepted > len(texts):
        problems.append(f"{load.refused} were refused: what was sent is not the stream, and its repeats are unknown")
    return ScenarioReport(
        scenario="repeats",
        figures=[
            Figure(name="messages", value=load.accepted, unit=""),
            Figure(name="repeats among them", value=possible, unit="%"),
            Figure(name="hits, by the runs", value=hits, unit="%"),
            Figure(name="hits short of the repeats", value=_gap(possible, hits), unit="points", bound=POINTS_MAX),
            Figure(
                name="provider's calls short of the messages, against the repeats",
                value=_gap(possible, saved),
                unit="points",
                bound=POINTS_MAX,
            ),
            Figure(name="CPU a run", value=round(measured.cpu_ms_per_run_total, 3), unit="ms"),
        ],
        phases=[phase("repeats", measured)],
        problems=problems,
    )


def stream(texts: Sequence[str], count: int, share: float, seed: int) -> list[str]:
    """`count` messages: each, by a chance of `share`, one that came before, else the next of `texts`.

    When they are used up they come again with a number, as messages of their own.
    """
    chance = random.Random(seed)
    fresh = list(dict.fromkeys(texts))
    made: list[str] = []
    new = 0
    for _ in range(count):
        if made and chance.random() < share:
            made.append(chance.choice(made))
            continue
        again, at = divmod(new, len(fresh))
        made.append(f"{fresh[at]} ({again + 1})" if again else fresh[at])
        new += 1
    return made


def _points(part: int, whole: int) -> float:
    return round(100 * part / max(1, whole), 2)


def _gap(possible: float, found: float) -> float:
    return round(abs(possible - found), 2)
