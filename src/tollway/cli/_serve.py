"""What the commands of long-running processes share: settings, logs, uvloop, and exits that say what went wrong."""

import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import click
import uvloop

from tollway.config import Settings, load_settings, settings_warnings
from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.telemetry.logs import configure, get_logger

log = get_logger(__name__)

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
EXIT_UNREACHABLE = 3

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=None,
    help="Settings file [default: ./tollway.toml if present].",
)
data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path), default=None, help="Folder of the embedded database."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Logs and output as JSON lines.")


def settings_for(config: Path | None, flags: Mapping[str, object], role: str, as_json: bool) -> Settings:
    """The settings, with logs set up as they say; ends the process with 2 when they cannot be used."""
    given = {**flags, **({"telemetry.log_format": "json"} if as_json else {})}
    try:
        settings = load_settings(config, given)
    except ConfigError as error:
        click.echo(f"tollway: {error}", err=True)
        sys.exit(EXIT_CONFIGURATION)
    configure(role, settings.telemetry.log_format, settings.telemetry.log_level)
    return settings


def warn_unwise(settings: Settings) -> None:
    """Say once what the settings make unlikely to work well."""
    for warning in settings_warnings(settings):
        log.warning("settings.unwise", warning=warning)


def serve(process: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run a process to its end, and exit as it says."""
    try:
        code = uvloop.run(process())
    except ConfigError as error:
        click.echo(f"tollway: {error}", err=True)
        code = EXIT_CONFIGURATION
    except DatabaseUnavailable as error:
        click.echo(f"tollway: the database cannot be reached: {error}", err=True)
        click.echo("  → check database.url and whether that server runs; `tollway doctor` looks closer", err=True)
        code = EXIT_UNREACHABLE
    except KeyboardInterrupt:
        code = EXIT_FAILED
    sys.exit(code)
