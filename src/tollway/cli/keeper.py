"""`tollway keeper`: one process that reaps the dead, opens gates of time, expires, and keeps partitions."""

from pathlib import Path

import click

from tollway.cli._serve import config_option, data_dir_option, json_option, serve, settings_for


@click.command()
@config_option
@data_dir_option
@json_option
def keeper(config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Keep the record in order until SIGTERM. Several may run: one is elected, the others stand by.

    \b
    Example:
      tollway keeper --config tollway.toml
    """
    from tollway.wiring.keeper import run_keeper  # noqa: PLC0415

    settings = settings_for(config, {"database.data_dir": data_dir}, "keeper", as_json)
    serve(lambda: run_keeper(settings))
