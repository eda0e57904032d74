"""`tollway provider-sim`: a simulated LLM provider in the foreground, until SIGTERM or Ctrl-C."""

import asyncio
import gc
import json
import signal
import tomllib
from pathlib import Path
from typing import Any

import click
import uvloop

from tollway.domain.errors import ConfigError
from tollway.simulator.provider import start_provider_sim

_GC_THRESHOLD = 50_000


@click.command("provider-sim", epilog="Example: tollway provider-sim --port 8790 --config sim.toml  (rpm = 600, ...)")
@click.option("--port", default=8790, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML or JSON; the keys are those of GET /sim/config.")
@click.option("--json", "as_json", is_flag=True, help="Say where it listens as JSON.")
def provider_sim(port: int, host: str, config: Path | None, as_json: bool) -> None:
    """Answer like OpenAI and Anthropic do, with chosen latency, limits and faults, and keep a ledger."""
    document = _read(config) if config else {}
    gc.set_threshold(_GC_THRESHOLD)
    try:
        uvloop.run(_serve(document, port, host, as_json))
    except ConfigError as error:
        raise _Refusal(f"{error.key}: {error.remedy}") from None


async def _serve(document: dict[str, Any], port: int, host: str, as_json: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        sim = await start_provider_sim(document, port, host=host)
    except OSError as error:
        raise _Refusal(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from None
    line = json.dumps({"url": sim.url, "port": sim.port}) if as_json else f"provider-sim listening on {sim.url}"
    click.echo(line)
    gc.freeze()
    await stop.wait()
    await sim.stop()


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise _Refusal(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise _Refusal(f"{path} is not {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if not isinstance(document, dict):
        raise _Refusal(f"{path} must hold an object")
    return document


class _Refusal(click.ClickException):
    """One line on stderr, exit code 2."""

    exit_code = 2
