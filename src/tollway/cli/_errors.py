"""Errors as the command line shows them, and the contract's exit codes."""

import json
from typing import Any

import click

from tollway.client.errors import ApiError, Unreachable
from tollway.domain.errors import ConfigError

DONE, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130


def exit_code(error: BaseException) -> int:
    """1 failed, 2 usage or configuration (a wrong key among it), 3 cannot reach the server."""
    if isinstance(error, Unreachable):
        return UNREACHABLE
    if isinstance(error, ConfigError) or (isinstance(error, ApiError) and error.status in (401, 403)):
        return USAGE
    return FAILED


def show_error(error: Exception, *, as_json: bool) -> None:
    """The error on stderr in words, or with `as_json` as its problem document on stdout."""
    if as_json:
        click.echo(json.dumps(_document(error), indent=2, ensure_ascii=False))
        return
    title, lines = _words(error)
    click.secho(f"Error: {title}", fg="red", err=True)
    for line in lines:
        click.echo(f"  {line}", err=True)


def _words(error: Exception) -> tuple[str, list[str]]:
    if isinstance(error, ApiError):
        lines = [error.detail] if error.detail and not error.errors else []
        lines += [f"{field.get('path') or '(input)'}: {field.get('message', '')}" for field in error.errors]
        if error.status == 401:
            lines.append("TOLLWAY_API_KEY must hold a key of this server.")
        if error.retry_after_s is not None:
            lines.append(f"Try again in {error.retry_after_s:g} s.")
        return f"{error.title} ({error.code})", lines
    if isinstance(error, Unreachable):
        remedy = "Start it with `tollway up`, or point TOLLWAY_URL at a running one."
        return f"cannot reach the server at {error.url}", [error.reason, remedy]
    first, *rest = str(error).splitlines() or [type(error).__name__]
    return first, rest


def _document(error: Exception) -> dict[str, Any]:
    if isinstance(error, ApiError):
        return error.document
    if isinstance(error, Unreachable):
        return {"title": "Cannot reach the server", "detail": str(error), "code": "unreachable"}
    code = "configuration" if isinstance(error, ConfigError) else "failed"
    return {"title": "The command failed", "detail": str(error), "code": code}
