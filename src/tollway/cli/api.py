"""`tollway api`: one API process."""

from pathlib import Path

import click

from tollway.cli._serve import config_option, data_dir_option, json_option, serve, settings_for


@click.command()
@click.option("--host", default=None, help="Address to listen on [default: server.host].")
@click.option("--port", type=int, default=None, help="Port to listen on [default: server.port].")
@click.option("--expect-workers", type=click.IntRange(min=0), default=0, help="What /readyz waits for.")
@click.option("--wire-only", is_flag=True, help="Serve calls to models only: the OpenAI and Anthropic wire.")
@config_option
@data_dir_option
@json_option
def api(
    host: str | None,
    port: int | None,
    expect_workers: int,
    wire_only: bool,
    config: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Serve the HTTP API until SIGTERM, which finishes what is under way and exits 0.

    \b
    Example:
      tollway api --port 8700
      tollway api --port 8710 --wire-only
    """
    from tollway.wiring.api import run_api  # noqa: PLC0415

    flags = {"server.host": host, "server.port": port, "database.data_dir": data_dir}
    settings = settings_for(config, flags, "api", as_json)
    serve(lambda: run_api(settings, expect_workers, wire_only=wire_only))
