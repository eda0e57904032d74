"""`tollway scaling`: what could run, what is blocked and why, and the workers that wants, as a table or a live view."""

from typing import Any

import click
from rich.console import Group
from rich.text import Text

from tollway.cli._command import Session, client_command, example
from tollway.cli._output import new_table, plain, print_json
from tollway.cli._refresh import show

PATH = "/v1/scaling"
_COLUMNS = ("lane", ">runnable", ">blocked", ">running", ">wanted", ">workers", "blocked by")


@click.command(epilog=example("tollway scaling --watch", "tollway scaling --lane batch --json"))
@click.option("--lane", default=None, help="Of this lane alone.")
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@client_command
async def scaling(session: Session, *, lane: str | None, watch: bool) -> None:
    """Show each lane's backlog and the workers it wants.

    Runnable is what a free slot would take at once; what is blocked waits for something else and wants no worker.
    """
    session.interrupted = ""
    query = [] if lane is None else [("lane", lane)]
    found = await session.client.call("GET", PATH, query=query)
    if session.as_json:
        print_json(found)
        return
    await show(session, PATH, query, _view, found, watch=watch)


def _view(found: dict[str, Any]) -> Group:
    table = new_table(*_COLUMNS)
    for item in found.get("items", [found]):
        table.add_row(plain(item["lane"]), *_row(item), plain(_reasons(item["reasons"])))
    if "items" not in found:
        return Group(table)
    return Group(table, plain(f"{found['wanted_workers']} workers wanted in all, {found['workers']} at work"))


def _row(item: dict[str, Any]) -> tuple[Text, ...]:
    short = item["wanted_workers"] > item["workers"]
    return (
        plain(f"{item['runnable']:,}"),
        plain(f"{item['blocked']:,}"),
        plain(f"{item['running']:,}"),
        Text(f"{item['wanted_workers']:,}", style="yellow" if short else ""),
        plain(str(item["workers"])),
    )


def _reasons(reasons: dict[str, int]) -> str:
    most_first = sorted(reasons.items(), key=lambda item: -item[1])
    return "  ".join(f"{reason} {runs:,}" for reason, runs in most_first) or "-"
