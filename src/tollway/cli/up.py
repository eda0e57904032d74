"""`tollway up`: everything on this machine, in the foreground."""

import json
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tollway.cli._serve import (
    EXIT_CONFIGURATION,
    config_option,
    data_dir_option,
    json_option,
    serve,
    settings_for,
    warn_unwise,
)
from tollway.config import Settings
from tollway.queue.autoscaler import Bounds, parse_bounds

if TYPE_CHECKING:
    from tollway.cli.doctor_checks import Check


class WorkerBounds(click.ParamType[Bounds]):
    """`1..4`, or `4` for `1..4`."""

    name = "least..most"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Bounds:
        """The bounds; fails with a usage error that has the remedy."""
        try:
            return parse_bounds(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


@click.command()
@click.option("--agents", "modules", multiple=True, metavar="MODULE", help="Python module that registers agents.")
@click.option("--port", type=int, default=None, help="Port of the API [default: server.port].")
@click.option(
    "--workers", type=click.IntRange(min=0), default=None, help="Worker processes [default: worker.processes]."
)
@click.option(
    "--autoscale",
    type=WorkerBounds(),
    default=None,
    help="The least and the most worker processes, as in 1..4: they come and go with the work.",
)
@config_option
@data_dir_option
@json_option
def up(
    modules: tuple[str, ...],
    port: int | None,
    workers: int | None,
    autoscale: Bounds | None,
    config: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Run everything on this machine until Ctrl-C or SIGTERM, which drains and stops it all.

    \b
    Example:
      tollway up --agents examples.agents --workers 2
      tollway up --agents examples.agents --autoscale 1..4
    """
    if autoscale is not None and workers is not None:
        raise click.UsageError(
            "--workers is a fixed number of worker processes, --autoscale their bounds: give one of them; "
            f"--autoscale {workers}..{max(workers, autoscale.most)} begins with {workers}"
        )
    flags = {
        "server.port": port,
        "worker.processes": workers if autoscale is None else autoscale.least,
        "database.data_dir": None if data_dir is None else data_dir.resolve(),
    }
    settings = settings_for(config, flags, "up", as_json)
    warn_unwise(settings)
    faults = _look_for_faults(settings, modules)
    from tollway.wiring.up import Place, UpOptions, run_up  # noqa: PLC0415 - slow, so done while the agents are tried

    _refuse(faults.result())

    def announce(place: Place) -> None:
        if as_json:
            key_file = None if place.admin_key_file is None else str(place.admin_key_file)
            facts = {"url": place.url, "admin_key_file": key_file, "provider_sim": place.sim_url}
            click.echo(json.dumps(facts))
            return
        click.echo(f"Tollway is starting on {place.url}  (ready when {place.url}/readyz answers 200)")
        if place.admin_key_file is not None:
            click.echo(f"The admin key is kept in {place.admin_key_file}; commands run from here find it.")
        if place.sim_url is not None:
            click.echo(f"No provider is configured: every model is the simulated provider at {place.sim_url}.")
        if not modules:
            click.echo("No --agents are named: runs are accepted once a worker publishes agents.")

    serve(lambda: run_up(settings, UpOptions(modules, config, as_json, autoscale), announce))


def _look_for_faults(settings: Settings, modules: tuple[str, ...]) -> "Future[list[Check]]":
    """Begin to look for what would have workers die again and again, in a thread: what it finds fails."""
    from tollway.cli.doctor_agents import check_together  # noqa: PLC0415
    from tollway.cli.doctor_checks import check_providers  # noqa: PLC0415

    def look() -> "list[Check]":
        checks = list(check_providers(settings, os.environ))
        if modules:
            checks.append(check_together(modules, settings))
        return [check for check in checks if check.state == "fail"]

    with_one = ThreadPoolExecutor(1)
    faults = with_one.submit(look)
    with_one.shutdown(wait=False)
    return faults


def _refuse(faults: "list[Check]") -> None:
    """End with 2 and the remedies, before anything starts."""
    for check in faults:
        click.echo(f"tollway: {check.name}: {check.found}\n  → {check.remedy}", err=True)
    if faults:
        sys.exit(EXIT_CONFIGURATION)
