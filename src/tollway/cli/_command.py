"""What every client command shares: `--json`, the server's address, the key, the way errors end the process."""

import asyncio
import functools
import math
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from tollway.cli._errors import FAILED, INTERRUPTED, exit_code, show_error
from tollway.client import Client, ClientOptions
from tollway.client.transport import DEFAULT_URL, is_loopback
from tollway.domain.errors import ConfigError, TollwayError

_OPTIONS = ClientOptions(retry_for_s=2.0)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


@dataclass(slots=True)
class Session:
    """One call of a client command; `interrupted` is what Ctrl-C leaves the user with."""

    client: Client
    as_json: bool
    interrupted: str = "interrupted"


def example(*lines: str) -> str:
    """An epilog that shows how a command is used."""
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


def client_command(function: Callable[..., Awaitable[int | None]]) -> Callable[..., None]:
    """Make a command of `async function(session, …) -> exit code or None`. Goes beneath `@click.command`."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.option("--url", envvar="TOLLWAY_URL", default=DEFAULT_URL, show_default=True, help="The server's address.")
    @functools.wraps(function)
    def command(*args: Any, as_json: bool, url: str, **kwargs: Any) -> None:
        acting_for = kwargs.pop("acting_for", None)
        session: Session | None = None

        async def run() -> int | None:
            nonlocal session
            async with Client(url, find_key(url), acting_for, options=_OPTIONS) as client:
                session = Session(client, as_json)
                return await function(session, *args, **kwargs)

        code: int | None
        try:
            code = asyncio.run(run())
        except KeyboardInterrupt:
            click.echo(f"\n{session.interrupted if session else 'interrupted'}", err=True)
            code = INTERRUPTED
        except TollwayError as error:
            show_error(error, as_json=as_json)
            code = exit_code(error)
        except msgspec.ValidationError as error:
            show_error(TollwayError(f"{url} answered, but not as Tollway does: {error}"), as_json=as_json)
            code = FAILED
        click.get_current_context().exit(code or 0)

    return command


def find_key(url: str) -> str:
    """The key from TOLLWAY_API_KEY, else the one `tollway up` keeps here, which never leaves this machine.

    Raises ConfigError when there is neither.
    """
    key = os.environ.get("TOLLWAY_API_KEY", "").strip()
    if key:
        return key
    file = Path(os.environ.get("TOLLWAY_DATABASE__DATA_DIR") or ".tollway") / "admin.key"
    if is_loopback(url):
        try:
            key = file.read_text().strip()
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("TOLLWAY_API_KEY", "", f"is not set, and {file} cannot be read: {error}") from None
    if not key:
        raise ConfigError(
            "TOLLWAY_API_KEY",
            "",
            f"set it to a key of this server (`tollway up` keeps its admin key in its data folder, here {file})",
        )
    return key


def parse_json(text: str, what: str) -> msgspec.Raw:
    """The JSON of an argument: itself, `-` for stdin, `@file` for a file; checked, then passed on as written.

    Raises click.UsageError.
    """
    try:
        if text == "-":
            text = sys.stdin.buffer.read().decode()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{what}: {error}") from None
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise click.UsageError(f"{what} is not valid JSON: {error}") from None
    return msgspec.Raw(text.strip().encode())


class Seconds(click.ParamType[float]):
    """A duration: `30`, `30s`, `5m`, `2h`, `1d`."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; fails with a usage error."""
        if isinstance(value, int | float):
            return float(value)
        number, unit = (value[:-1], value[-1]) if value[-1:] in _UNITS else (value, "s")
        try:
            seconds = float(number) * _UNITS[unit]
        except ValueError:
            self.fail(f"{value!r} is no duration; write 30, 30s, 5m, 2h or 1d", param, ctx)
        if not 0 <= seconds < float("inf"):
            self.fail(f"{value!r} must not be negative or endless", param, ctx)
        return seconds


def finite(text: str) -> float:
    """A number as it is written. Raises ValueError, also for `nan` and `inf`: JSON has null for these, no limit."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


class Number(click.ParamType[float]):
    """A number."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; fails with a usage error."""
        try:
            return finite(value)
        except ValueError:
            self.fail(f"{value!r} is no number", param, ctx)


def pairs(items: tuple[str, ...], what: str) -> dict[str, str]:
    """`k=v` options as a dict. Raises click.UsageError."""
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise click.UsageError(f"{what} {item!r} must be written as key=value")
        found[key] = value
    return found
