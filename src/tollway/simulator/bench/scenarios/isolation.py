"""A lane keeps its latency (P6): interactive runs at a steady rate beside four kinds of trouble, one at a time."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from tollway.simulator.bench import stock
from tollway.simulator.bench.harness import BenchOptions, Measured, Watcher, measure
from tollway.simulator.bench.project import Project, RouteSetup
from tollway.simulator.bench.report import Figure, ScenarioReport, disk_problems, phase, run_problems
from tollway.simulator.bench.stack import Stack, running

RATE_PER_S, CONNECTIONS = 100.0, 200
ROUNDS, WINDOW_S, WARM_UP_S = 3, 31.0, 5.0
QUICK_WINDOW_S = 8.0
SLOTS = 400
LATENCY_S, FLOOD_LATENCY_S = 0.5, 2.0
FLOOD, QUICK_FLOOD, FLOOD_PER_S = 50_000, 15_000, 2500.0
SHARE, GRACE_MS, CPU_MAX = 0.1, 25.0, 80.0
_CHUNK = 500

_AGENTS = '''"""Who answers a customer, and those who are in the way."""

import asyncio

import tollway


async def ask(run: tollway.Run, ticket: dict[str, str]) -> str:
    reply = await run.llm(f"Which team should answer this customer? {ticket['text']}", max_tokens=20, cache="off")
    return reply.text


@tollway.agent(name="probe", tier="fast", lane="interactive", timeout=60)
async def probe(run: tollway.Run, ticket: dict[str, str]) -> str:
    return await ask(run, ticket)


@tollway.agent(name="nightly", tier="slow", lane="batch", timeout=300)
async def nightly(run: tollway.Run, ticket: dict[str, str]) -> str:
    return await ask(run, ticket)


@tollway.agent(name="eager", tier="slow", lane="interactive", timeout=300)
async def eager(run: tollway.Run, ticket: dict[str, str]) -> str:
    return await ask(run, ticket)


@tollway.agent(name="hanging", tier="fast", lane="interactive", timeout=20, max_attempts=1)
async def hanging(run: tollway.Run, ticket: dict[str, str]) -> str:
    await asyncio.sleep(3600)
    return await ask(run, ticket)


async def look_up(text: str) -> str:
    await asyncio.sleep(5)
    raise ConnectionError("the customers' records do not answer")


@tollway.agent(name="stranded", tier="fast", lane="interactive", timeout=60, max_attempts=1, requires=["crm"])
async def stranded(run: tollway.Run, ticket: dict[str, str]) -> str:
    return str(await run.task("look up", look_up, ticket["text"], dependency="crm"))
'''
TROUBLES = {
    "a flood of batch runs": "nightly",
    "a tenant's flood in the same lane": "eager",
    "an agent that hangs": "hanging",
    "a dead dependency": "stranded",
}
PROJECT = Project(
    agents=_AGENTS,
    routes=(RouteSetup("sim-fast", "fast"), RouteSetup("sim-slow", "slow")),
    sections={"worker": {"grace_s": 1}},
)
PROVIDER = {"latency_s": LATENCY_S, "models": {"sim-slow": {"latency_s": FLOOD_LATENCY_S}}}


@dataclass(frozen=True)
class Round:
    """One measured window: its runs, what share of the machine was busy, and how much of the flood was accepted."""

    measured: Measured
    accepted: int

    @property
    def p99_ms(self) -> float:
        """End to end."""
        return self.measured.load.end_to_end.p99

    @property
    def cpu_share(self) -> float:
        """Of all CPUs, by anybody, in percent."""
        one, load = self.measured, self.measured.load
        busy_s = one.spent.total_s + one.generator_s + one.provider_s + one.elsewhere_s
        return 100 * busy_s / (load.window_s * one.before.cpus)


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """The p99 end to end of 100 interactive runs a second, of one call of 500 ms, quiet and beside each trouble.

    A trouble is 50,000 runs of another tenant, submitted at 2,500 a second from the begin of the window on: batch runs;
    runs of the probes' own lane; runs that hang until their time-out; runs whose dependency fails slowly. Median of
    three rounds of 3,000 probes, each on a fresh stack (--quick: one round of 800).
    """
    rounds: dict[str, list[Round]] = {}
    for number in range(1 if options.quick else ROUNDS):
        rounds.setdefault("quiet", []).append(await _round(options, watcher, f"quiet, round {number + 1}", None))
        for name, agent in TROUBLES.items():
            rounds.setdefault(name, []).append(await _round(options, watcher, f"{name}, round {number + 1}", agent))
    return report(rounds)


def report(rounds: dict[str, list[Round]]) -> ScenarioReport:
    """Medians against the quiet ones."""
    quiet_ms = statistics.median(one.p99_ms for one in rounds["quiet"])
    bound_ms = quiet_ms + max(SHARE * quiet_ms, GRACE_MS)
    figures = [Figure(name="quiet: end to end p99", value=round(quiet_ms, 1), unit="ms")]
    for name, measured in rounds.items():
        if name != "quiet":
            p99_ms = statistics.median(one.p99_ms for one in measured)
            figures += [
                Figure(name=f"{name}: end to end p99", value=round(p99_ms, 1), unit="ms", bound=round(bound_ms, 1)),
                Figure(name="  runs of it accepted", value=min(one.accepted for one in measured), unit=""),
                Figure(
                    name="  CPUs busy, most",
                    value=round(max(one.cpu_share for one in measured)),
                    unit="%",
                    bound=CPU_MAX,
                ),
            ]
    each = [(f"{name} {n + 1}", one.measured) for name, measured in rounds.items() for n, one in enumerate(measured)]
    return ScenarioReport(
        scenario="isolation",
        figures=figures,
        phases=[phase(name, measured) for name, measured in each],
        problems=[
            *(f"{name}: {text}" for name, measured in each for text in run_problems(measured.load)),
            *disk_problems(each[0][1].before),
        ],
    )


async def _round(options: BenchOptions, watcher: Watcher, name: str, agent: str | None) -> Round:
    watcher.stage(f"starting: {name}")
    window_s = options.measure_s or (QUICK_WINDOW_S if options.quick else WINDOW_S)
    async with running(options.stack(slots=SLOTS, provider=PROVIDER, project=PROJECT)) as stack:
        calm, loud = await stack.tenant_key("calm"), await stack.tenant_key("loud")
        plan = replace(options, measure_s=None).plan(
            stack,
            "probe",
            api_key=calm,
            clients=CONNECTIONS,
            rate_per_s=RATE_PER_S,
            warmup_s=WARM_UP_S,
            measure_s=window_s,
            provider_s=LATENCY_S,
        )
        flood = _Flood(stack, loud, agent, options.texts[0], QUICK_FLOOD if options.quick else FLOOD)
        measured = await measure(stack, plan, watcher, flood.during)
    return Round(measured, flood.accepted)


class _Flood:
    """Another tenant's runs of one agent, at an even rate."""

    def __init__(self, stack: Stack, key: str, agent: str | None, text: str, runs: int) -> None:
        self.accepted = 0
        self._stack = stack
        self._key = key
        self._agent = agent
        self._text = text
        self._runs = runs

    @property
    def during(self) -> Callable[[], Awaitable[None]] | None:
        """What to do within the window: nothing when it is to be quiet."""
        return None if self._agent is None else self._submit

    async def _submit(self) -> None:
        began = time.monotonic()
        body = {"agent": self._agent, "input": {"text": self._text}}
        for sent in range(0, self._runs, _CHUNK):
            await asyncio.sleep(max(0.0, sent / FLOOD_PER_S - (time.monotonic() - began)))
            self.accepted += await stock.submit(self._stack, self._key, [body] * min(_CHUNK, self._runs - sent))
