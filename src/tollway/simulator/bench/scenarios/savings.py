"""What the demo's workload costs by the provider's own ledger: all on the powerful tier, then each saving in turn."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tollway.simulator.bench import support_desk as desk
from tollway.simulator.bench.harness import BenchOptions, Watcher
from tollway.simulator.bench.report import Figure, ScenarioReport, Sheet
from tollway.simulator.bench.stack import Stack, running
from tollway.simulator.customers import Message, messages, repeated

MESSAGES, QUICK_MESSAGES = 1200, 300
SAVED_MIN_PCT = 50.0
_A_SECOND = 120  # messages: 60 arrive, as many are in the batch
_SHIFTED_S = 15.0
_LARGE = desk.MODELS["powerful"][0]

_POWERFUL = [{"from_tier": tier, "to_tier": "powerful"} for tier in ("fast", "capable")]
_PLAIN = {"cache": "off", "single_flight": False}


@dataclass(frozen=True)
class Rung:
    """One way to serve the workload: the tier shifts in force, and keys of `[llm]`."""

    name: str
    llm: Mapping[str, object]
    shifts: Sequence[Mapping[str, str]] = ()


RUNGS = (
    Rung("everything on the powerful tier", _PLAIN, _POWERFUL),
    Rung("+ each step on the tier it asks", _PLAIN),
    Rung("+ exact cache", {"cache": "exact", "single_flight": False}),
    Rung("+ single flight", {"cache": "exact", "single_flight": True}),
)


@dataclass(frozen=True)
class Bill:
    """What a rung cost: by the provider's ledger, and by the runs' own account. Nano-dollars."""

    rung: str
    messages: int
    succeeded: int
    calls: int
    nano: int
    own_nano: int
    by_model: Mapping[str, int]

    @property
    def without_call(self) -> int:
        """LLM steps that were answered without a call."""
        return self.messages * desk.CALLS_A_RUN - self.calls


async def run(options: BenchOptions, watcher: Watcher) -> ScenarioReport:
    """The same messages four times, a fresh stack each; only shifts and `[llm]` differ."""
    count = QUICK_MESSAGES if options.quick else MESSAGES
    if options.measure_s is not None:
        count = int(options.measure_s * _A_SECOND)
    work = messages(options.texts, desk.TENANTS, count)
    bills = [await _bill(options, watcher, rung, work) for rung in RUNGS]
    return report(work, bills)


def report(work: Sequence[Message], bills: Sequence[Bill]) -> ScenarioReport:
    """The bills as figures and as a table. Pure."""
    first, last = bills[0], bills[-1]
    own = sum(abs(bill.nano - bill.own_nano) for bill in bills)
    figures = [
        Figure(name="messages", value=len(work), unit=""),
        Figure(name="  that their tenant had sent before", value=_pct(repeated(work), len(work)), unit="%"),
        *(Figure(name=bill.rung, value=bill.nano / 1e9, unit="USD") for bill in bills),
        *(
            Figure(name=f"  {bill.rung}, saved", value=_pct(before.nano - bill.nano, before.nano), unit="%")
            for before, bill in pairwise(bills)
        ),
        Figure(
            name="saved in all",
            value=_pct(first.nano - last.nano, first.nano),
            unit="%",
            bound=SAVED_MIN_PCT,
            side="at least",
        ),
        Figure(name="our ledger against the provider's, all rungs", value=own, unit="nano-USD", bound=0),
    ]
    return ScenarioReport(
        scenario="savings", figures=figures, phases=[], problems=_problems(bills), sheets=[_sheet(bills)]
    )


async def _bill(options: BenchOptions, watcher: Watcher, rung: Rung, work: Sequence[Message]) -> Bill:
    watcher.stage(f"{rung.name}: starting")
    wanted = options.stack(slots=desk.SLOTS, provider=desk.PROVIDER, project=desk.project(rung.llm))
    async with running(wanted) as stack:
        keys = {tenant: await stack.tenant_key(tenant) for tenant in desk.TENANTS}
        probes = await _in_force(stack, rung)
        before = await stack.providers[0].totals()
        watcher.stage(f"{rung.name}: {len(work)} messages")
        accepted = await desk.hand_in(stack, keys, work)
        runs = [one for one in await desk.ended(stack, accepted + probes) if one.tenant in keys]
        after = await stack.providers[0].totals()
    return Bill(
        rung.name,
        len(work),
        sum(1 for one in runs if one.state == "succeeded"),
        after["calls"] - before["calls"],
        after["cost_nano"] - before["cost_nano"],
        sum(one.cost_nano for one in runs),
        {model: calls - before["by_model"].get(model, 0) for model, calls in after["by_model"].items()},
    )


async def _in_force(stack: Stack, rung: Rung) -> int:
    """Set the shifts, and send messages of nobody's until one was served by them; how many it took."""
    probes, stop = 0, time.monotonic() + _SHIFTED_S
    if not rung.shifts:
        return probes
    await stack.ask("/v1/shifts", "PUT", list(rung.shifts))
    while not (await _by_model(stack)).get(_LARGE) and time.monotonic() < stop:
        probes += 1
        await stack.ask("/v1/runs", "POST", desk.body(Message(f"probe {probes}", 0, "interactive", "", "nobody")))
        await desk.ended(stack, probes)
    return probes


async def _by_model(stack: Stack) -> dict[str, int]:
    found: dict[str, int] = (await stack.providers[0].totals())["by_model"]
    return found


def _problems(bills: Sequence[Bill]) -> list[str]:
    found = []
    for bill in bills:
        if bill.succeeded != bill.messages:
            found.append(f"{bill.rung}: {bill.messages - bill.succeeded} of {bill.messages} runs did not succeed")
        if bill.nano != bill.own_nano:
            found.append(f"{bill.rung}: the runs' cost is {bill.own_nano} nano-dollars, the provider's {bill.nano}")
    smaller = {model: calls for model, calls in bills[0].by_model.items() if calls and model != _LARGE}
    if smaller:
        found.append(f"{bills[0].rung}: other models served {smaller} calls")
    return found


def _sheet(bills: Sequence[Bill]) -> Sheet:
    first = bills[0]
    rows = [[first.rung, f"{first.nano / 1e9:.6f}", f"{first.calls:,}", f"{first.without_call:,}", "", ""]]
    for before, bill in pairwise(bills):
        saved = (_pct(before.nano - bill.nano, before.nano), _pct(first.nano - bill.nano, first.nano))
        row = [bill.rung, f"{bill.nano / 1e9:.6f}", f"{bill.calls:,}", f"{bill.without_call:,}"]
        rows.append([*row, *(f"{pct:.1f} %" for pct in saved)])
    columns = ["by the provider's ledger", "USD", "calls", "answered without", "saved by it", "saved in all"]
    return Sheet(title="The demo's workload", columns=columns, rows=rows)


def _pct(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0
