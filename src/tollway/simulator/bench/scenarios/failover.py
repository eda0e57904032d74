"""A provider dies, then slows tenfold, under a steady load that a second route can serve; each time it comes back."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from tollway.simulator.bench.harness import BenchOptions, Measured, Watcher, measure
from tollway.simulator.bench.job import Job
from tollway.simulator.bench.project import Project, RouteSetup
from tollway.simulator.bench.provider import arrived_s
from tollway.simulator.bench.report import Figure, ScenarioReport, disk_problems, phase, run_problems
from tollway.simulator.bench.stack import Stack, running
from tollway.simulator.bench.timeline import back_after_s, usual_p99_s
from tollway.simulator.bench.troubles import GOOD_S, RECOVERY_S, TROUBLE_S, Death, Trouble, within
from tollway.simulator.ledger import Row
from tollway.simulator.load.plan import LoadResult, RunSeen

RATE_PER_S, RATE_BESIDE_PER_S = 100.0, 50.0
CLIENTS = 400
FIRST, SECOND, ALONE = "sim-first", "sim-second", "sim-alone"
FIRST_S, SECOND_S = 0.05, 0.06
SLOW_S = 0.3
SERVING, BESIDE = "bench_serving", "bench_beside"
_STORM_S = 10.0
_SERIALS = 100_000_000

_AGENT = """

@tollway.agent(name="{name}", tier="{tier}", lane="standard", timeout=60)
async def {name}(run: tollway.Run, ticket: dict[str, str]) -> dict[str, str]:
    reply = await run.llm(f"Which team should answer this customer? {{ticket['text']}}", max_tokens=20, cache="off")
    return {{"text": reply.text}}
"""
PROJECT = Project(
    agents='"""Agents of one call: on two routes, and on the second alone."""\n\nimport tollway\n'
    + _AGENT.format(name=SERVING, tier="fast")
    + _AGENT.format(name=BESIDE, tier="alone"),
    routes=(
        RouteSetup(FIRST, "fast", 0, {"priority": 1, "latency_p99_max_s": SLOW_S}),
        RouteSetup(SECOND, "fast", 1, {"priority": 2}),
        RouteSetup(ALONE, "alone", 1),
    ),
    sections={"worker": {"heartbeat_s": 0.5}},
)


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """Runs failed, calls sent to a route whose breaker is open, and how fast all is well again, after each trouble.

    What "well" means is measured beside it: runs that only the second route serves, at the same time on the same
    machine. The witnesses are the providers' own ledgers; of calls that a dead provider could not write down, the runs'
    count of their calls.
    """
    watcher.stage("starting")
    options = replace(options, measure_s=None, warmup_s=None, clients=None)
    async with running(options.stack(project=PROJECT)) as stack:
        await stack.providers[1].configure(latency_s=SECOND_S)
        died = await _told(options, stack, watcher, Death(stack, FIRST, FIRST_S))
        slowed = await _told(options, stack, watcher, Trouble(stack, FIRST, FIRST_S))
    told = {"dies": died, "slows": slowed}
    return ScenarioReport(
        scenario="failover",
        figures=[figure for name, one in told.items() for figure in _figures(name, one)],
        phases=[phase(f"the first provider {name}", one.measured) for name, one in told.items()],
        problems=[f"{name}: {text}" for name, one in told.items() for text in _problems(one)],
    )


@dataclass(frozen=True)
class _Told:
    """One trouble and all that is known of it; `beside` are the runs that only the second route serves."""

    trouble: Trouble
    measured: Measured
    beside: LoadResult
    first: Sequence[Row]
    second: Sequence[Row]

    def usual_s(self) -> float:
        """The p99 that the runs beside it kept to meanwhile."""
        return usual_p99_s(self.beside.runs, self.trouble.began_s, self.trouble.over_s)

    def back_s(self) -> float:
        """How long after the trouble began the p99 of new runs was as usual."""
        runs = self.measured.load.runs
        return back_after_s(runs, self.trouble.began_s, self.trouble.over_s, self.usual_s())

    def share_to_shut(self) -> float:
        """Of the calls made while the route was shut, the percentage that went there all the same, probes included."""
        since_s, until_s = self.trouble.opened_s or self.trouble.began_s, self.trouble.over_s
        elsewhere = len(self._by_second(since_s, until_s))
        if isinstance(self.trouble, Death):
            astray = sum(run.calls - 1 for run in self._runs(since_s, until_s))
        else:
            astray = len(within(self.first, since_s, until_s))
        return 100 * astray / max(1, astray + elsewhere)

    def serves_again_s(self) -> float:
        """How long after its comeback the first provider answered a call of ours; infinite if it never did."""
        over_s = self.trouble.over_s
        rows = within(self.first, over_s, float("inf"))
        return next((arrived_s(row) - over_s for row in rows if row.status == 200), float("inf"))

    def calls_per_run(self) -> float:
        """Calls at both providers for each run accepted, in the first seconds of the recovery."""
        since_s, until_s = self.trouble.over_s, self.trouble.over_s + _STORM_S
        calls = len(within(self.first, since_s, until_s)) + len(self._by_second(since_s, until_s))
        return calls / max(1, len(self._runs(since_s, until_s)))

    def _runs(self, since_s: float, until_s: float) -> list[RunSeen]:
        return [run for run in self.measured.load.runs if since_s <= run.created_s < until_s]

    def _by_second(self, since_s: float, until_s: float) -> list[Row]:
        return [row for row in within(self.second, since_s, until_s) if row.model == SECOND]


async def _told(options: BenchOptions, stack: Stack, watcher: Watcher, trouble: Trouble) -> _Told:
    """Both loads, and the trouble in the midst of them."""
    seen = [len(await provider.rows()) for provider in stack.providers]
    wishes: dict[str, Any] = {"clients": CLIENTS, "warmup_s": 2.0, "keep_runs": True}
    wishes["first_serial"] = _SERIALS * isinstance(trouble, Death)
    serving_s, beside_s = GOOD_S + TROUBLE_S + RECOVERY_S, GOOD_S + TROUBLE_S
    serving = options.plan(stack, SERVING, rate_per_s=RATE_PER_S, measure_s=serving_s, **wishes)
    alone = options.plan(stack, BESIDE, rate_per_s=RATE_BESIDE_PER_S, measure_s=beside_s, **wishes)
    beside = Job(stack, alone, watcher)
    came: list[LoadResult] = []

    async def course() -> None:
        result, _ = await asyncio.gather(beside.run(), trouble.run())
        came.append(msgspec.convert(result, LoadResult))

    measured = await measure(stack, serving, watcher, course)
    first = (await trouble.first_rows())[seen[0] :]
    second = (await stack.providers[1].rows())[seen[1] :]
    measured = replace(measured, provider_calls=len(first) + sum(row.model == SECOND for row in second))
    return _Told(trouble, measured, came[0], first, second)


def _figures(name: str, told: _Told) -> list[Figure]:
    trouble, load = told.trouble, told.measured.load
    opened_s = (trouble.opened_s or float("inf")) - trouble.began_s
    seconds = {
        "breaker open after": opened_s,
        "p99 of new runs as usual after": told.back_s(),
        "back, and serving after": told.serves_again_s(),
    }
    bounds = {"p99 of new runs as usual after": 5.0}
    return [
        Figure(name=f"{name}: runs that did not succeed", value=load.accepted - load.succeeded, unit="", bound=0),
        Figure(name=f"{name}: calls to the shut route", value=round(told.share_to_shut(), 2), unit="%", bound=1),
        Figure(name=f"{name}: calls a run in the recovery", value=round(told.calls_per_run(), 3), unit="", bound=1.3),
        Figure(name=f"{name}: usual p99, by the second route", value=round(told.usual_s() * 1000, 1), unit="ms"),
        *(
            Figure(name=f"{name}: {what}", value=round(value, 2), unit="s", bound=bounds.get(what))
            for what, value in seconds.items()
        ),
    ]


def _problems(told: _Told) -> list[str]:
    found = [*run_problems(told.measured.load), *disk_problems(told.measured.before)]
    found += [f"beside it: {text}" for text in run_problems(told.beside)]
    if told.trouble.opened_s is None:
        found.append("the breaker of the first route never opened")
    if told.serves_again_s() == float("inf"):
        found.append("the first provider was never asked again")
    return found
