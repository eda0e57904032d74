"""`tollway doctor`: looks at a set-up, changing nothing, and says check by check what is wrong and how to mend it."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from tollway.cli.doctor_agents import check_agents
from tollway.cli.doctor_checks import (
    Check,
    check_clock,
    check_open_files,
    check_port,
    check_providers,
    check_python,
)
from tollway.cli.doctor_database import check_database
from tollway.cli.doctor_prices import check_prices
from tollway.config import ConfigErrors, Settings, load_settings, settings_warnings

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red"), "skip": ("-", "dim")}
_FAILED, _MISCONFIGURED = 1, 2


@click.command(
    epilog="Example: tollway doctor --config tollway.toml --agents my_agents",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--config", "config", type=click.Path(path_type=Path), help="The settings; else ./tollway.toml if there.")
@click.option("--agents", "modules", multiple=True, metavar="MODULE", help="An agent module to try; may be repeated.")
@click.option("--port", type=int, help="The port `tollway up` is to take.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the embedded database lives.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(
    config: Path | None, modules: tuple[str, ...], port: int | None, data_dir: Path | None, as_json: bool
) -> None:
    """Check this machine's set-up; change nothing.

    Exit code 0: nothing is in the way (there may be warnings); 1: a check failed; 2: the settings cannot be used.
    """
    flags = {"server.port": port, "database.data_dir": data_dir}
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    checks = []
    for check in diagnose(config, flags, modules):
        checks.append(check)
        if not as_json:
            console.print(_line(check))
    failed = [check for check in checks if check.state == "fail"]
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [check.document() for check in checks]}, indent=2))
    else:
        console.print(_summary(checks))
    if failed:
        sys.exit(_MISCONFIGURED if any(check.name == "settings" for check in failed) else _FAILED)


def diagnose(config: Path | None, flags: Mapping[str, object], modules: tuple[str, ...]) -> Iterator[Check]:
    """Every check, as it is done. Without usable settings, what depends on them is skipped."""
    yield check_python()
    yield check_clock()
    settings = None
    try:
        settings = load_settings(config, flags)
    except ConfigErrors as errors:
        for fault in errors.faults:
            yield Check("settings", "fail", f"{fault.key} = {fault.value!r}", fault.remedy)
    if settings is None:
        for name in ("port", "database", "providers", "prices"):
            yield Check(name, "skip", "waits for usable settings")
    else:
        yield _settings_read(config, settings)
        for warning in settings_warnings(settings):
            yield Check("settings", "warn", warning)
        yield check_port(settings.server.host, settings.server.port)
        yield from check_database(settings)
        yield from check_providers(settings, os.environ)
        yield from check_prices(settings, datetime.now(UTC))
        yield check_open_files(settings.worker.slots)
    yield from check_agents(modules, settings)


def _settings_read(config: Path | None, settings: Settings) -> Check:
    file = config or Path("tollway.toml")
    source = str(file) if file.exists() else "no file, so the defaults"
    routes = "routes to the simulated provider" if settings.simulated else f"{len(settings.routes)} routes"
    return Check("settings", "ok", f"{source}; {routes}, {len(settings.lanes)} lanes, {settings.worker.slots} slots")


def _line(check: Check) -> Text:
    mark, style = _MARKS[check.state]
    line = Text.assemble((f"{mark} ", style), (f"{check.name:<12} ", "bold"), check.found)
    if check.remedy:
        line.append(f"\n  → {check.remedy}", style)
    return line


def _summary(checks: list[Check]) -> Text:
    failed = sum(check.state == "fail" for check in checks)
    warned = sum(check.state == "warn" for check in checks)
    if failed:
        return Text(f"\n{failed} of {len(checks)} checks failed", "red")
    return Text(f"\nNothing is in the way ({warned} warnings)" if warned else "\nNothing is in the way", "green")


if __name__ == "__main__":
    doctor(prog_name="tollway doctor")
