"""`tollway routes`: what each route is used for and how dependencies stand, as tables or a live view."""

from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tollway.cli._command import Session, client_command, example
from tollway.cli._output import console, new_table, plain, print_json, span
from tollway.cli._refresh import show

PATH = "/v1/routes"
_USE = (">calls/min", ">tokens/min", ">limit", ">leased", ">flying", ">waiting")
_HEALTH = ("breaker", ">p50", ">p99", ">429", ">failed")
_COLUMNS = ("route", "tier", "model", *_USE, *_HEALTH)
_BREAKER_STYLES = {"closed": "green", "open": "bold red", "half_open": "yellow", "ramping": "yellow"}


@click.command(epilog=example("tollway routes --watch", "tollway routes --json"))
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@client_command
async def routes(session: Session, *, watch: bool) -> None:
    """Show every route: used and leased of its limits, who waits, its breaker, latency, 429s of the last minute.

    Below them the dependencies that agents' tasks called lately, or that are in trouble.
    """
    session.interrupted = ""
    found = await session.client.call("GET", PATH)
    if session.as_json:
        print_json(found)
        return
    if not found["items"] and not found.get("dependencies"):
        console().print("no routes are configured", style="bright_black")
        return
    await show(session, PATH, [], _view, found, watch=watch)


def _view(found: dict[str, Any]) -> Group:
    table = new_table(*_COLUMNS)
    for item in found["items"]:
        table.add_row(*_row(item))
    shares = "   ".join(f"{tier['tier']} {tier['share']:.1%}" for tier in found["tiers"] if tier["requests"])
    parts: list[RenderableType] = [
        table,
        plain(f"calls by tier: {shares}" if shares else "no calls in the last minute"),
    ]
    dependencies = found.get("dependencies")
    return Group(*parts, _dependencies(dependencies)) if dependencies else Group(*parts)


def _dependencies(items: list[dict[str, Any]]) -> Table:
    table = new_table("dependency", "breaker", "until", ">calls", ">failed", "why")
    for item in items:
        breaker = item["breaker"]
        until = breaker["opens_at"]
        table.add_row(
            plain(item["name"]),
            Text(breaker["state"], style=_BREAKER_STYLES.get(breaker["state"], "")),
            "" if until is None else f"{datetime.fromtimestamp(until, UTC):%H:%M:%S}",
            f"{item['calls']:,}",
            f"{item['failure_share']:.0%}",
            plain(breaker["reason"]),
        )
    return table


def _row(item: dict[str, Any]) -> tuple[Text, ...]:
    breaker, latency = item["breaker"]["state"], item["latency"]
    return (
        plain(item["name"]),
        plain(item["tier"]),
        plain(item["model"]),
        plain(f"{item['used']['requests']:,}"),
        plain(f"{item['used']['tokens']:,}"),
        plain(_pairs(item["limits"])),
        plain(_pairs(item["leased"])),
        plain(str(item["in_flight"])),
        plain(str(item["waiting"])),
        Text(breaker, style=_BREAKER_STYLES.get(breaker, "")),
        plain(span(latency["p50_s"])),
        plain(span(latency["p99_s"])),
        Text(str(item["throttled"]), style="red" if item["throttled"] else ""),
        Text(str(item["failed"]), style="red" if item["failed"] else ""),
    )


def _pairs(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:,.6g}" for name, value in values.items()) or "-"
