"""`tollway isolate`: a process of its own for one run; workers start it, people need not."""

from pathlib import Path
from uuid import UUID

import click

from tollway.cli._serve import config_option, data_dir_option, json_option, serve, settings_for


@click.command(hidden=True)
@click.argument("run_id", type=click.UUID)
@click.option("--agents", "modules", multiple=True, metavar="MODULE", help="Python module that registers agents.")
@config_option
@data_dir_option
@json_option
def isolate(run_id: UUID, modules: tuple[str, ...], config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Execute one run that lost its worker twice, so that it can take nothing else with it.

    \b
    Example:
      tollway isolate 0199d0c0-0000-7000-8000-000000000000 --agents examples.agents
    """
    from tollway.wiring.worker import run_isolated  # noqa: PLC0415

    settings = settings_for(config, {"database.data_dir": data_dir}, "worker", as_json)
    serve(lambda: run_isolated(settings, modules, run_id))
