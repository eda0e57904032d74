"""Tenants share by weight, measured in money (P7); and runs start when they were told they would."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tollway.simulator.bench import stock
from tollway.simulator.bench.dividing import forecast_errors, jain, median, normalised, service_gap
from tollway.simulator.bench.harness import BenchOptions, Watcher
from tollway.simulator.bench.machine import inspect
from tollway.simulator.bench.project import Project
from tollway.simulator.bench.report import Figure, ScenarioReport, disk_problems
from tollway.simulator.bench.stack import Stack, running
from tollway.simulator.bench.stock import RunLine

TENANTS = (2, 10, 50)
QUICK_TENANTS = (2, 10)
WEIGHTS = (1.0, 2.0, 4.0)
TOKENS = ((40,), (120,), (40, 80, 120))
SLOTS, LATENCY_S = 100, 0.25
WINDOW_S, QUICK_WINDOW_S, WARM_UP_S = 60.0, 15.0, 10.0
FORECAST_TENANTS, WAIT_S, SETTLE_S = 10, 8.0, 20.0
SHARE_MAX, JAIN_MIN, ERROR_MAX = 2.0, 0.99, 25.0
AGENTS = ("write", "revise", "shorten")
_RUNS_PER_S = SLOTS / LATENCY_S
_SPARE = 1.4
_REFILL_EVERY_S = 0.5
_NANO_PER_TOKEN = 600

_CODE = '"""Work of different cost: as many tokens as the ticket asks for."""\n\nimport tollway\n' + "".join(
    f"""

@tollway.agent(name="{name}", tier="fast", lane="standard", timeout=300)
async def {name}(run: tollway.Run, ticket: dict[str, str]) -> int:
    tokens = int(ticket["tokens"])
    await run.llm(f"Answer this customer: {{ticket['text']}}", max_tokens=tokens, cache="off")
    return tokens
"""
    for name in AGENTS
)
PROVIDER = {"latency_s": LATENCY_S, "output_tokens": 1000}
ONE_LANE = {"worker": {"lanes": ["standard"]}}


@dataclass(frozen=True)
class Tenant:
    """A tenant of the scenario: its weight, the sizes of its runs in tokens, the agents it uses."""

    name: str
    weight: float
    tokens: Sequence[int]
    agents: Sequence[str]

    @property
    def mean_tokens(self) -> float:
        """A run's."""
        return sum(self.tokens) / len(self.tokens)

    def bodies(self, count: int, text: str) -> list[dict[str, Any]]:
        """Submits of so many of its runs."""
        return [
            {
                "agent": self.agents[number % len(self.agents)],
                "input": {"text": text, "tokens": str(self.tokens[number % len(self.tokens)])},
            }
            for number in range(count)
        ]


def tenants_of(count: int) -> list[Tenant]:
    """Every mix of weight and size; each fourth tenant spreads its work over three agents.

    The others have one of the three each, so that no agent has so many slots that its bulkhead would bind.
    """
    return [
        Tenant(
            name=f"tenant{n}",
            weight=WEIGHTS[n % 3],
            tokens=TOKENS[(n // 3 + n) % 3],
            agents=AGENTS if n % 4 == 3 else (AGENTS[n % 3],),
        )
        for n in range(count)
    ]


def runs_per_s(tenants: Sequence[Tenant]) -> dict[str, float]:
    """How many runs of each are done when money is divided by weight and slots are what there is too little of."""
    entitled = {tenant.name: tenant.weight / tenant.mean_tokens for tenant in tenants}
    whole = sum(entitled.values())
    return {name: _RUNS_PER_S * each / whole for name, each in entitled.items()}


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """Shares of money of 2, 10 and 50 backlogged tenants over a minute, and the error of `predicted_start_at`.

    100 slots and runs of 250 ms are what is shared; weights 1, 2, 4, runs of 40 to 120 tokens, some tenants with three
    agents. Forecasts are judged where ten tenants' backlogs stay the same, some eight seconds of work each (--quick: 2
    and 10 tenants, 15 s).
    """
    window_s = options.measure_s or (QUICK_WINDOW_S if options.quick else WINDOW_S)
    machine = inspect(options.scratch)
    figures: list[Figure] = []
    problems = disk_problems(machine)
    for count in QUICK_TENANTS if options.quick else TENANTS:
        watcher.stage(f"starting: {count} tenants")
        found = await _shares(options, watcher, tenants_of(count), window_s)
        figures += found.figures()
        problems += found.problems()
    watcher.stage("starting: forecasts")
    runs = await _forecasts(options, watcher, tenants_of(FORECAST_TENANTS), window_s / 2)
    return ScenarioReport(
        scenario="fairness", figures=[*figures, *_forecast_figures(runs)], phases=[], problems=problems
    )


@dataclass(frozen=True)
class _Shares:
    """One window of backlogged tenants: all their runs that have ended, and from when until when to count."""

    tenants: Sequence[Tenant]
    runs: Sequence[RunLine]
    since_s: float
    until_s: float
    backlog_left: bool

    def figures(self) -> Iterator[Figure]:
        """Shares, Jain's index and the gap."""
        count = len(self.tenants)
        weights = {tenant.name: tenant.weight for tenant in self.tenants}
        served = dict.fromkeys(weights, 0.0)
        for run in self._within():
            served[run.tenant] += run.cost_nano
        each = normalised(served, weights)
        off = max(abs(share - 1) for share in each.values())
        yield Figure(name=f"{count} tenants: runs", value=round(len(self._within()) / self._span_s, 1), unit="/s")
        yield Figure(name="  furthest from its share of money", value=round(100 * off, 2), unit="%", bound=SHARE_MAX)
        yield Figure(
            name="  Jain's index", value=round(jain(each.values()), 5), unit="", bound=JAIN_MIN, side="at least"
        )
        spent = [(run.tenant, run.ended_s or 0.0, float(run.cost_nano)) for run in self._within()]
        gap = service_gap(spent, weights, self.since_s, self.until_s)
        largest = max(max(tenant.tokens) for tenant in self.tenants) * _NANO_PER_TOKEN / min(weights.values())
        yield Figure(name="  service gap", value=round(gap / largest, 2), unit="largest runs / least weight")

    def problems(self) -> list[str]:
        """What makes the figures worthless."""
        bad = sum(1 for run in self.runs if run.state != "succeeded")
        found = [f"{bad} runs of {len(self.tenants)} tenants did not succeed"] if bad else []
        return found if self.backlog_left else [*found, f"a backlog of {len(self.tenants)} tenants was not enough"]

    @property
    def _span_s(self) -> float:
        return self.until_s - self.since_s

    def _within(self) -> list[RunLine]:
        return [run for run in self.runs if run.ended_s is not None and self.since_s <= run.ended_s < self.until_s]


async def _shares(options: BenchOptions, watcher: Watcher, tenants: Sequence[Tenant], window_s: float) -> _Shares:
    async with running(options.stack(slots=SLOTS, provider=PROVIDER, project=_project())) as stack:
        keys = await _keys(stack, tenants)
        rates = runs_per_s(tenants)
        watcher.stage(f"queueing for {len(tenants)} tenants")
        await _pause(stack, tenants, paused=True)
        for tenant in tenants:
            count = int(rates[tenant.name] * (window_s + WARM_UP_S) * _SPARE) + 2
            await stock.submit(stack, keys[tenant.name], tenant.bodies(count, options.texts[0]))
        await _pause(stack, tenants, paused=False)
        watcher.stage(f"{len(tenants)} tenants share")
        await asyncio.sleep(WARM_UP_S)
        since_s = time.time()
        await asyncio.sleep(window_s)
        until_s = time.time()
        left = [await stack.ask(f"/v1/runs?tenant={tenant.name}&state=queued&limit=1") for tenant in tenants]
        ended = await stock.read_runs(stack, state="succeeded")
        for state in ("failed", "dead", "expired", "cancelled"):
            ended += await stock.read_runs(stack, state=state)
        stack.check()
    return _Shares(tenants, ended, since_s, until_s, all(page["items"] for page in left))


async def _forecasts(
    options: BenchOptions, watcher: Watcher, tenants: Sequence[Tenant], window_s: float
) -> list[RunLine]:
    """Runs that were accepted in the steady state, which is kept by replacing what is done."""
    async with running(options.stack(slots=SLOTS, provider=PROVIDER, project=_project())) as stack:
        keys, rates = await _keys(stack, tenants), runs_per_s(tenants)
        text = options.texts[0]

        async def fill(runs: float) -> None:
            for tenant in tenants:
                debt[tenant.name] += rates[tenant.name] / _RUNS_PER_S * runs
                count, debt[tenant.name] = int(debt[tenant.name]), debt[tenant.name] % 1
                await stock.submit(stack, keys[tenant.name], tenant.bodies(count, text))

        debt = dict.fromkeys(rates, 0.0)
        watcher.stage("forecasts")
        await fill(WAIT_S * _RUNS_PER_S)
        began, calls = time.monotonic(), 0
        since_s = time.time() + SETTLE_S
        while time.monotonic() - began < SETTLE_S + window_s + 2 * WAIT_S:
            await asyncio.sleep(_REFILL_EVERY_S)
            before, calls = calls, await stack.provider_calls()
            await fill(calls - before)
        runs = await stock.read_runs(stack, state="succeeded")
        stack.check()
    return [run for run in runs if since_s <= run.created_s < since_s + window_s]


def _forecast_figures(runs: Sequence[RunLine]) -> list[Figure]:
    errors = forecast_errors(runs)
    waits = [run.started_s - run.created_s for run in runs if run.started_s is not None]
    return [
        Figure(name="forecasts: runs that waited over 1 s", value=len(errors), unit=""),
        Figure(name="  median wait", value=round(median(waits), 2), unit="s"),
        Figure(
            name="  median error of the predicted start",
            value=round(100 * median(errors), 1),
            unit="% of the wait",
            bound=ERROR_MAX,
        ),
    ]


def _project() -> Project:
    return Project(agents=_CODE, sections=ONE_LANE)


async def _keys(stack: Stack, tenants: Sequence[Tenant]) -> dict[str, str]:
    keys = {}
    for tenant in tenants:
        keys[tenant.name] = await stack.tenant_key(tenant.name)
        await stack.ask(f"/v1/tenants/{tenant.name}", "PUT", {"weight": tenant.weight})
    return keys


async def _pause(stack: Stack, tenants: Sequence[Tenant], *, paused: bool) -> None:
    await asyncio.gather(*(stack.ask(f"/v1/tenants/{each.name}", "PUT", {"paused": paused}) for each in tenants))
