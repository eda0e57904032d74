"""What money costs a call in CPU: in the record alone, part by part, and of budgets on a whole stack under load."""

import statistics
from collections.abc import Sequence

from tollway.simulator.bench.harness import BenchOptions, Measured, Watcher, measure
from tollway.simulator.bench.money_rig import MoneyCost, money_cost
from tollway.simulator.bench.project import TEN_CALLS
from tollway.simulator.bench.queue_rig import queue_rig
from tollway.simulator.bench.report import Figure, ScenarioReport, Sheet, phase, problems
from tollway.simulator.bench.stack import Stack, running

CLIENTS = 256
CALLS = 10
ROUNDS, QUICK_ROUNDS = 4, 2
RIG_ROUNDS, QUICK_RIG_ROUNDS = 20, 5
OVERHEAD_MAX_MS = 0.05
POLL_S = 1.0
_SERIALS = 50_000_000
_AMPLE_USD = 1_000_000
BUDGETS = [
    {"period": "day", "hard_usd": _AMPLE_USD},
    {"period": "week", "hard_usd": _AMPLE_USD, "lane": "standard"},
    {
        "period": "month",
        "hard_usd": _AMPLE_USD,
        "soft_usd": _AMPLE_USD / 2,
        "agent": TEN_CALLS,
        "ladder": [{"at_pct": 50, "rung": "alert"}, {"at_pct": 90, "rung": "lower_tier"}],
    },
]
"""None of them binds: what is measured is the check, the reserving, the deltas and their folding."""


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """All money handling of a call on the record alone: its writes with money and without, rollup, reserving, settling.

    Then a whole stack, saturated with runs of ten calls, for a tenant without budgets and for one with three in turn:
    medians of pairs. Prices, ledger and rollup are at work for both.
    """
    watcher.stage("the record alone")
    async with queue_rig(options.scratch, keep=options.keep) as rig:
        cost = await money_cost(rig, QUICK_RIG_ROUNDS if options.quick else RIG_ROUNDS)
    watcher.stage("starting")
    pairs: list[tuple[Measured, Measured]] = []
    async with running(options.stack()) as stack:
        plain, paid = await stack.tenant_key("plain"), await stack.tenant_key("paid")
        await stack.ask("/v1/tenants/paid/budgets", "PUT", {"budgets": BUDGETS})
        loads = _Loads(options, stack, watcher)
        for number in range(QUICK_ROUNDS if options.quick else ROUNDS):
            # each goes first in every other round: the record grows, the machine warms
            keys = (plain, paid) if number % 2 == 0 else (paid, plain)
            one, other = [await loads.measured(key) for key in keys]
            pairs.append((one, other) if keys[0] == plain else (other, one))
    return report(cost, pairs)


class _Loads:
    """The same load again and again, no prompt twice."""

    def __init__(self, options: BenchOptions, stack: Stack, watcher: Watcher) -> None:
        self._options = options
        self._stack = stack
        self._watcher = watcher
        self._made = 0

    async def measured(self, key: str) -> Measured:
        self._made += 1
        plan = self._options.plan(
            self._stack,
            TEN_CALLS,
            api_key=key,
            clients=CLIENTS,
            warmup_s=2.0,
            measure_s=8.0,
            poll_s=POLL_S,
            provider_s=0.05 * CALLS,
            first_serial=self._made * _SERIALS,
        )
        return await measure(self._stack, plan, self._watcher)


def report(cost: MoneyCost, pairs: Sequence[tuple[Measured, Measured]]) -> ScenarioReport:
    """The parts, and the pairs without budgets and with them, as figures."""
    plain = [_a_call(one) for one, _ in pairs]
    paid = [_a_call(other) for _, other in pairs]
    overhead = [after - before for before, after in zip(plain, paid, strict=True)]
    ratio = [after / before for before, after in zip(plain, paid, strict=True)]
    return ScenarioReport(
        scenario="money",
        figures=[
            Figure(name="all money handling of a call", value=_ms(cost.whole_us), unit="ms", bound=OVERHEAD_MAX_MS),
            Figure(name="  its writes: reservation, budgets, ledger", value=_ms(cost.writes_us), unit="ms"),
            Figure(name="  reserve and settle in three budgets", value=_ms(cost.guard_us), unit="ms"),
            Figure(name="  counted into the rollup", value=_ms(cost.rollup_us), unit="ms"),
            Figure(name="  looked at for alerts", value=_ms(cost.alerts_us), unit="ms"),
            Figure(name="CPU a call, no budget", value=round(statistics.median(plain), 4), unit="ms"),
            Figure(name="CPU a call, three budgets", value=round(statistics.median(paid), 4), unit="ms"),
            Figure(name="added by budgets, median of pairs", value=round(statistics.median(overhead), 4), unit="ms"),
            Figure(name="  least", value=round(min(overhead), 4), unit="ms"),
            Figure(name="  most", value=round(max(overhead), 4), unit="ms"),
            Figure(name="  ratio, median of pairs", value=round(statistics.median(ratio), 4), unit="times"),
            Figure(name="calls with budgets", value=round(statistics.median(_calls_per_s(pairs)), 1), unit="/s"),
        ],
        phases=[phase(name, one) for pair in pairs[-1:] for name, one in zip(("plain", "paid"), pair, strict=True)],
        problems=[text for pair in pairs for one in pair for text in problems(one, calls_per_run=CALLS)],
        sheets=[_sheet(pairs)],
    )


def _ms(us: float) -> float:
    return round(us / 1000, 4)


def _a_call(measured: Measured) -> float:
    return measured.cpu_ms_per_run_total / CALLS


def _calls_per_s(pairs: Sequence[tuple[Measured, Measured]]) -> list[float]:
    return [other.load.runs_per_s * CALLS for _, other in pairs]


def _sheet(pairs: Sequence[tuple[Measured, Measured]]) -> Sheet:
    """By process, the medians: where what is added is spent."""
    roles = sorted({role for pair in pairs for one in pair for role in one.cpu_ms_per_run()})
    rows = []
    for role in roles:
        plain, paid = (
            statistics.median(pair[side].cpu_ms_per_run().get(role, 0.0) / CALLS for pair in pairs) for side in (0, 1)
        )
        rows.append([role, f"{plain:.4f}", f"{paid:.4f}", f"{paid - plain:+.4f}"])
    return Sheet(title="CPU ms a call by process", columns=["process", "no budget", "three", "added"], rows=rows)
