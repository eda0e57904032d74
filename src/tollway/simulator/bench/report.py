"""What a scenario found, as a document: figures with their bounds, CPU by process, the machine, problems."""

from typing import Literal

import msgspec

from tollway.simulator.bench.harness import CallsMeasured, Measured
from tollway.simulator.bench.machine import Machine
from tollway.simulator.load.calls import CallResult
from tollway.simulator.load.plan import LoadResult

FORMAT = 1


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One number; `met` is None where nothing is asked of it."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    side: Literal["at most", "at least"] = "at most"

    @property
    def met(self) -> bool | None:
        """Whether it keeps its bound."""
        if self.bound is None:
            return None
        return self.value <= self.bound if self.side == "at most" else self.value >= self.bound


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One load of a scenario, in full. CPU in milliseconds a run, resident memory in bytes by process role."""

    name: str
    load: LoadResult
    provider_calls: int
    cpu_ms_per_run: dict[str, float]
    cpu_ms_per_run_total: float
    generator_ms_per_run: float
    generator_us_per_exchange: float
    provider_ms_per_run: float
    elsewhere_cpus: float
    processes_missing: int
    rss_idle: dict[str, int]
    rss_loaded: dict[str, int]
    machine_before: Machine
    machine_after: Machine


class CallPhase(msgspec.Struct, frozen=True, kw_only=True):
    """One load of single calls, in full. CPU in milliseconds a call."""

    name: str
    load: CallResult
    provider_calls: int
    cpu_ms_per_call: dict[str, float]
    cpu_ms_per_call_total: float
    generator_ms_per_call: float
    provider_ms_per_call: float
    elsewhere_cpus: float
    machine_before: Machine
    machine_after: Machine


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """A table of its own, as text: its title, its columns, its rows."""

    title: str
    columns: list[str]
    rows: list[list[str]]


class ScenarioReport(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario's findings; `problems` are broken promises, unlike a figure that misses its bound."""

    scenario: str
    figures: list[Figure]
    phases: list[Phase]
    problems: list[str]
    calls: list[CallPhase] = []
    sheets: list[Sheet] = []

    @property
    def missed(self) -> list[Figure]:
        """The figures outside their bounds."""
        return [figure for figure in self.figures if figure.met is False]


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document. `format` rises when its form changes."""

    tollway: str
    at: str
    scenarios: list[ScenarioReport]
    format: int = FORMAT

    def document(self) -> dict[str, object]:
        """As JSON shows it: each figure with its `met`, each scenario with `ok`."""
        whole: dict[str, object] = msgspec.to_builtins(self)
        whole["scenarios"] = [
            {
                "scenario": one.scenario,
                "ok": not one.problems,
                "figures": [{**msgspec.to_builtins(figure), "met": figure.met} for figure in one.figures],
                "problems": one.problems,
                "phases": msgspec.to_builtins(one.phases),
                "calls": msgspec.to_builtins(one.calls),
                "sheets": msgspec.to_builtins(one.sheets),
            }
            for one in self.scenarios
        ]
        return whole


def phase(name: str, measured: Measured) -> Phase:
    """A measurement as it stands in the report."""
    runs = max(1, measured.load.finished_in_window)
    return Phase(
        name=name,
        load=msgspec.structs.replace(measured.load, runs=[]),
        provider_calls=measured.provider_calls,
        cpu_ms_per_run={role: round(ms, 4) for role, ms in measured.cpu_ms_per_run().items()},
        cpu_ms_per_run_total=round(measured.cpu_ms_per_run_total, 4),
        generator_ms_per_run=round(measured.generator_s * 1000 / runs, 4),
        generator_us_per_exchange=round(measured.generator_us_per_exchange, 2),
        provider_ms_per_run=round(measured.provider_s * 1000 / runs, 4),
        elsewhere_cpus=round(measured.elsewhere_cpus, 3),
        processes_missing=measured.spent.missing,
        rss_idle=measured.rss_idle,
        rss_loaded=measured.rss_loaded,
        machine_before=measured.before,
        machine_after=measured.after,
    )


def call_phase(name: str, measured: CallsMeasured) -> CallPhase:
    """A measurement of single calls as it stands in the report."""
    calls = max(1, measured.load.answered_in_window)
    return CallPhase(
        name=name,
        load=measured.load,
        provider_calls=measured.provider_calls,
        cpu_ms_per_call={role: round(ms, 4) for role, ms in measured.cpu_ms_per_call().items()},
        cpu_ms_per_call_total=round(measured.cpu_ms_per_call_total, 4),
        generator_ms_per_call=round(measured.generator_s * 1000 / calls, 4),
        provider_ms_per_call=round(measured.provider_s * 1000 / calls, 4),
        elsewhere_cpus=round(measured.elsewhere_s / measured.load.window_s, 3),
        machine_before=measured.before,
        machine_after=measured.after,
    )


def problems(measured: Measured, calls_per_run: int) -> list[str]:
    """What a load shows to be broken: runs lost or failed, answers outside the contract, calls never or twice made."""
    load, found = measured.load, run_problems(measured.load)
    expected = load.succeeded * calls_per_run
    if measured.provider_calls < expected:
        found.append(f"the provider saw {measured.provider_calls} calls of {expected}: some runs made theirs up")
    if measured.provider_calls > expected and load.clean and not load.unanswered_submits:
        found.append(f"the provider saw {measured.provider_calls} calls for {expected}: some were repeated")
    return found + disk_problems(measured.before)


def call_problems(measured: CallsMeasured) -> list[str]:
    """What a load of single calls shows to be broken."""
    load, found = measured.load, []
    if not load.answered:
        found.append("no call was answered")
    if load.refused:
        found.append(f"calls refused, by status: {load.refused}, for one {load.examples[:1]}")
    if load.cut or load.unanswered:
        found.append(f"{load.cut} calls were cut ({load.examples[:1]}), {load.unanswered} stayed unanswered")
    if load.clean and measured.provider_calls != load.answered:
        found.append(f"the provider saw {measured.provider_calls} calls, {load.answered} were answered")
    return found + disk_problems(measured.before)


def run_problems(load: LoadResult) -> list[str]:
    """What is broken whatever the provider did: runs lost or failed, answers outside the contract."""
    found = []
    if load.accepted == 0:
        found.append("no run was accepted")
    if load.lost:
        found.append(f"{load.lost} accepted runs were not final at the end, among them {', '.join(load.lost_examples)}")
    ended_badly = {state: count for state, count in load.finals.items() if state != "succeeded"}
    if ended_badly:
        found.append(f"runs that did not succeed: {ended_badly}")
    if load.unexpected:
        found.append(f"answers outside the contract: {load.unexpected}")
    if load.disconnects or load.unanswered_submits:
        found.append(f"{load.disconnects} connections were cut, {load.unanswered_submits} submits stayed unanswered")
    return found


def disk_problems(machine: Machine) -> list[str]:
    """Whether what was measured could be called durable."""
    if machine.durable:
        return []
    return [f"the data lay on {machine.filesystem}, which no power loss survives; choose --dir"]
