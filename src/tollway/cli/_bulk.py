"""Bulk actions at the command line: count first, ask, then act on exactly what was counted."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import click
import msgspec

from tollway.cli._command import Session, parse_json
from tollway.cli._errors import DONE, FAILED
from tollway.cli._output import console, print_json

Act = Callable[[int | None, bool | str], Awaitable[dict[str, Any]]]
"""Asks the server to count (no number, `True`) or to act (the number, the snapshot)."""


async def count_and_act(act: Act, question: str, *, yes: bool) -> dict[str, Any]:
    """The server's answer to the action; `{"count": 0}` when nothing matches. `question` has a place for the count.

    Raises click.Abort when the user says no.
    """
    counted = await act(None, True)
    count = int(counted["count"])
    if not count:
        return {"count": 0}
    if not yes:
        click.confirm(question.format(count=f"{count:,}"), abort=True, err=True)
    return await act(count, counted.get("snapshot", False))


def show_results(session: Session, answer: Mapping[str, Any], done: str) -> int:
    """Print what became of letters; the exit code. `done` is the word for what went well."""
    count = int(answer.get("count", 0))
    well = int(answer.get(done, count))
    if session.as_json:
        print_json(answer)
    else:
        console().print(f"{done} {well:,} of {count:,} dead runs", markup=False)
        for result in answer.get("results", ()):
            if "error" in result:
                console().print(f"  {result['id']}  {result['error'].get('detail', '')}", style="red", markup=False)
    return FAILED if answer.get("refused") else DONE


def given(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in filters.items() if value is not None}


def patch_of(text: str) -> dict[str, Any]:
    """The JSON object of `--patch`. Raises click.UsageError."""
    patch = msgspec.json.decode(parse_json(text, "--patch"))
    if not isinstance(patch, dict):
        raise click.UsageError("--patch must be a JSON object: what of the input changes, null for what goes")
    return patch
