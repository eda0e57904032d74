"""How `tollway bench` shows what it found: figures with their bounds, CPU by process, problems."""

from rich.console import Console
from rich.table import Table

from tollway.simulator.bench.machine import Machine
from tollway.simulator.bench.report import CallPhase, Phase, ScenarioReport, Sheet

_MARKS = {True: "[green]met[/]", False: "[yellow]missed[/]", None: ""}


def show(console: Console, report: ScenarioReport) -> None:
    """Print a scenario's tables."""
    figures = Table(title=report.scenario, title_justify="left", title_style="bold")
    for name in ("figure", "value", "bound", ""):
        figures.add_column(name, justify="right" if name in ("value", "bound") else "left")
    for figure in report.figures:
        sign = "≤" if figure.side == "at most" else "≥"
        bound = "" if figure.bound is None else f"{sign} {figure.bound:g}"
        figures.add_row(figure.name, f"{figure.value:,g} {figure.unit}", bound, _MARKS[figure.met])
    console.print(figures)
    for sheet in report.sheets:
        _show_sheet(console, sheet)
    for phase in report.phases:
        _show_phase(console, phase)
    if report.calls:
        _show_calls(console, report.calls)
    for problem in report.problems:
        console.print(f"[red]problem:[/] {problem}", highlight=False)
    console.print()


def _show_sheet(console: Console, sheet: Sheet) -> None:
    table = Table(title=sheet.title, title_justify="left")
    for number, name in enumerate(sheet.columns):
        table.add_column(name, justify="right" if number else "left")
    for row in sheet.rows:
        table.add_row(*row)
    console.print(table)


def _show_phase(console: Console, phase: Phase) -> None:
    load, before, after = phase.load, phase.machine_before, phase.machine_after
    table = Table(title=f"{phase.name}: CPU and memory by process", title_justify="left")
    table.add_column("process")
    table.add_column("CPU ms a run", justify="right")
    table.add_column("resident MiB", justify="right")
    for role, ms in sorted(phase.cpu_ms_per_run.items(), key=lambda item: -item[1]):
        table.add_row(role, f"{ms:.3f}", f"{phase.rss_loaded.get(role, 0) / 2**20:,.0f}")
    table.add_row("all of these", f"{phase.cpu_ms_per_run_total:.3f}", "", style="bold")
    table.add_row("(provider)", f"{phase.provider_ms_per_run:.3f}", "", style="dim")
    exchange = f"(load generator, {phase.generator_us_per_exchange:.1f} µs an exchange)"
    table.add_row(exchange, f"{phase.generator_ms_per_run:.3f}", "", style="dim")
    console.print(table)
    console.print(
        f"  {load.accepted:,} runs accepted, {load.succeeded:,} succeeded, {load.lost} lost, "
        f"{sum(load.refused.values())} refused; the provider served {phase.provider_calls:,} calls\n"
        f"{_machine(before, after, phase.elsewhere_cpus)}",
        highlight=False,
    )


def _show_calls(console: Console, phases: list[CallPhase]) -> None:
    table = Table(title="CPU ms a call by process; latencies in ms", title_justify="left")
    table.add_column("load", no_wrap=True)
    for name in ("calls/s", "p50", "p99", "p99.9", "api", "postgres", "others", "(provider)", "(generator)"):
        table.add_column(name, justify="right")
    for phase in phases:
        roles, whole = phase.cpu_ms_per_call, phase.load.whole
        api = roles.get("api", 0.0)
        postgres = sum(ms for role, ms in roles.items() if role.startswith("postgres"))
        spent = [api, postgres, phase.cpu_ms_per_call_total - api - postgres]
        spent += [phase.provider_ms_per_call, phase.generator_ms_per_call]
        row = [phase.name, f"{phase.load.calls_per_s:,.0f}"]
        row += [f"{ms:.1f}" for ms in (whole.p50, whole.p99, whole.p999)]
        table.add_row(*row, *(f"{ms:.3f}" for ms in spent))
    console.print(table)
    first, last = phases[0], phases[-1]
    elsewhere = max(phase.elsewhere_cpus for phase in phases)
    console.print(_machine(first.machine_before, last.machine_after, elsewhere), highlight=False)


def _machine(before: Machine, after: Machine, elsewhere_cpus: float) -> str:
    return (
        f"  calibration {before.calibration_ms:.1f} ms before, {after.calibration_ms:.1f} ms after; fdatasync p50 "
        f"{before.fdatasync.p50:.2f} ms, p99 {before.fdatasync.p99:.2f} ms on {before.filesystem}\n"
        f"  {before.cpus} CPUs, of which other programs used {elsewhere_cpus:.2f} meanwhile"
    )
