"""`tollway bench`: starts Tollway on this machine, loads it over HTTP, says what a run costs and how long it takes."""

import asyncio
import shutil
import signal
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tollway.cli.bench_tables import show
from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.simulator.bench.harness import BenchOptions, LoadFailed
from tollway.simulator.bench.processes import StackFailed
from tollway.simulator.bench.report import BenchReport, ScenarioReport
from tollway.simulator.bench.scenarios import SCENARIOS
from tollway.simulator.bench.texts import read_texts
from tollway.simulator.load.wire import BadAnswer

_EPILOG = """\b
Examples:
  tollway bench
  tollway bench saturated --clients 256 --seconds 10
  tollway bench paced --json --save paced.json
  tollway bench limits --plots .
  tollway bench backlog --quick

Exit codes: 0 done, 1 runs were lost or failed (with --strict: or a figure was missed), 2 usage, 3 the system did
not come up."""


@click.command(epilog=_EPILOG)
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)), metavar="[SCENARIO]...")
@click.option("--clients", type=click.IntRange(1, 20_000), help="Clients at once (default: the scenario's).")
@click.option("--seconds", type=click.FloatRange(1, 3600), help="Seconds to measure (not of in-flight, failover).")
@click.option(
    "--warm-up", type=click.FloatRange(0, 600), help="Seconds of load before that (not of in-flight, failover)."
)
@click.option("--workers", type=click.IntRange(1, 64), help="Worker processes (default: the scenario's).")
@click.option(
    "--dir",
    "scratch",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    default=Path("/var/tmp"),
    show_default=True,
    help="Where data is kept while measuring: the disk that is measured.",
)
@click.option("--texts", type=click.Path(path_type=Path), help="CSV whose column `text` the runs carry.")
@click.option("--tollway", "program", help="The `tollway` program to measure (default: this one).")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON document there, too.")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Draw what a scenario can draw there.")
@click.option("--quick", is_flag=True, help="The short forms of the scenarios about the queue.")
@click.option("--keep", is_flag=True, help="Leave data and log where they are, and say where.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON document instead of tables.")
@click.option("--strict", is_flag=True, help="A missed figure is a failure.")
def bench(  # click passes every option by its name
    scenarios: tuple[str, ...],
    clients: int | None,
    seconds: float | None,
    warm_up: float | None,
    workers: int | None,
    scratch: Path,
    texts: Path | None,
    program: str | None,
    save: Path | None,
    plots: Path | None,
    quick: bool,
    keep: bool,
    as_json: bool,
    strict: bool,
) -> None:
    """Measure Tollway on this machine, durable, from HTTP in to result stored.

    SCENARIO is any of saturated, paced, in-flight, ten-calls, wire, failover, repeats, limits, of those about money:
    savings, money, and of those about the queue: backlog, isolation, fairness, overload, documents. Without one, all
    of them in turn (about an hour; with --quick 20 minutes).
    """
    try:
        options = BenchOptions(
            tollway=(_program(program),),
            scratch=scratch,
            texts=read_texts(texts),
            clients=clients,
            measure_s=seconds,
            warmup_s=warm_up,
            workers=workers,
            keep=keep,
            plots=plots,
            quick=quick,
        )
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    names = list(dict.fromkeys(scenarios)) or list(SCENARIOS)
    try:
        reports = asyncio.run(_run_all(names, options, as_json))
    except (StackFailed, DatabaseUnavailable, ConfigError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(3)
    except (LoadFailed, BadAnswer, OSError, asyncio.CancelledError) as error:
        click.echo(f"Error: {str(error) or 'stopped'}", err=True)
        sys.exit(1)
    report = BenchReport(
        tollway=version("tollway"),
        at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        scenarios=reports,
    )
    document = msgspec.json.format(msgspec.json.encode(report.document()), indent=2)
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_bytes(document + b"\n")
    if as_json:
        click.echo(document)
    if any(one.problems or (strict and one.missed) for one in reports):
        sys.exit(1)


async def _run_all(names: list[str], options: BenchOptions, as_json: bool) -> list[ScenarioReport]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    console = Console()
    reports: list[ScenarioReport] = []
    for name in names:
        with _Live(name) as live:
            report = await SCENARIOS[name](options, live)
        reports.append(report)
        if not as_json:
            show(console, report)
    return reports


class _Live:
    """The progress of one scenario, on stderr."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> "_Live":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, text: str) -> None:
        """Show what is being done."""
        self._progress.update(self._task, description=f"{self._name}: {text}", total=None)

    def load(self, elapsed_s: float, total_s: float, done: int, open_runs: int) -> None:
        """Show how far the load is."""
        text = f"{self._name}: {done:,} runs done, {open_runs:,} open"
        text += " (finishing)" if elapsed_s > total_s else ""
        self._progress.update(self._task, description=text, total=total_s, completed=min(elapsed_s, total_s))


def _program(chosen: str | None) -> str:
    """The program to measure: the chosen one, else the one installed beside this Python, else the one on the path."""
    beside = Path(sys.executable).with_name("tollway")
    found = shutil.which(chosen) if chosen else str(beside) if beside.is_file() else shutil.which("tollway")
    if not found:
        raise ConfigError("tollway", chosen or "tollway", "no such program; name one with --tollway")
    return str(Path(found).absolute())
