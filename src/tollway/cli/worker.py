"""`tollway worker`: one process that claims and executes runs."""

from pathlib import Path

import click

from tollway.cli._serve import config_option, data_dir_option, json_option, serve, settings_for


@click.command()
@click.option("--agents", "modules", multiple=True, metavar="MODULE", help="Python module that registers agents.")
@click.option("--lanes", default=None, metavar="A,B", help="Lanes to serve [default: worker.lanes].")
@config_option
@data_dir_option
@json_option
def worker(
    modules: tuple[str, ...], lanes: str | None, config: Path | None, data_dir: Path | None, as_json: bool
) -> None:
    """Claim and execute runs until SIGTERM, which finishes or hands back what runs, and exits 0.

    \b
    Example:
      tollway worker --agents shop.agents --lanes interactive,standard
    """
    from tollway.wiring.worker import run_worker  # noqa: PLC0415

    flags = {
        "worker.lanes": [lane.strip() for lane in lanes.split(",")] if lanes else None,
        "database.data_dir": data_dir,
    }
    settings = settings_for(config, flags, "worker", as_json)
    serve(lambda: run_worker(settings, modules))
