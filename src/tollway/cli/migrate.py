"""`tollway migrate`: brings the database to this version's schema."""

import json
from pathlib import Path

import click

from tollway.cli._serve import config_option, data_dir_option, json_option, serve, settings_for


@click.command()
@click.option("--phase", type=click.Choice(["pre", "post", "all"]), default="all", show_default=True)
@config_option
@data_dir_option
@json_option
def migrate(phase: str, config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Apply the migrations that are missing. `pre` runs before new code is deployed, `post` after the old is gone.

    \b
    Example:
      tollway migrate --phase pre && deploy && tollway migrate --phase post
    """
    from tollway.record.migrate import PHASES, latest_version  # noqa: PLC0415
    from tollway.record.migrate import migrate as apply  # noqa: PLC0415
    from tollway.wiring.base import database_url  # noqa: PLC0415

    settings = settings_for(config, {"database.data_dir": data_dir}, "migrate", as_json)

    async def run() -> int:
        url = settings.database.direct_url or database_url(settings)
        applied = await apply(url, PHASES if phase == "all" else (phase,))
        if as_json:
            click.echo(json.dumps({"applied": [m.name for m in applied], "version": latest_version()}))
        else:
            for migration in applied:
                click.echo(f"applied {migration.version:04d} {migration.phase} {migration.name}")
            click.echo("the schema is up to date" if not applied else "done")
        return 0

    serve(run)
