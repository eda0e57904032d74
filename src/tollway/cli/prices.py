"""`tollway prices`: what each route's calls cost, where its price comes from, and when that changes."""

from typing import Any

import click
from rich.text import Text

from tollway.cli._command import Session, client_command, example
from tollway.cli._output import console, dollars, plain, print_json, print_table

PATH = "/v1/prices"
_RATES = (">input", ">output", ">cached", ">written")
_COLUMNS = ("route", "tier", "model", *_RATES, ">a call", ">at worst", "changes", "price")
_SOURCE_STYLES = {"unknown": "bold red", "worst-case": "yellow"}


@click.command(epilog=example("tollway prices", "tollway prices --model gpt-4o --json"))
@click.option("--model", help="Only routes to models whose name holds this.")
@client_command
async def prices(session: Session, *, model: str | None) -> None:
    """Show what each route's calls cost now: dollars per million tokens, a fee a call, and a usual call at its worst.

    The price is named as the ledger names it: of the configuration, since its day; of the bundled list; or the stated
    worst case of unknown models. Steps by input, reasoning tokens and paid hours stand below it.
    """
    found = await session.client.call("GET", PATH)
    items = [item for item in found["items"] if model is None or model in item["model"]]
    if session.as_json:
        print_json({**found, "items": items})
        return
    print_table(_COLUMNS, [_row(item) for item in items], empty="no such routes are configured")
    for item in items:
        for note in _notes(item):
            console().print(plain(f"{item['route']}: {note}"), style="bright_black")
    usual = found.get("usual_call")
    if items and usual:
        tokens = f"{usual['input_tokens']:,} tokens in, {usual['output_tokens']:,} out"
        console().print(plain(f"dollars per million tokens; at worst: a call of {tokens}"), style="bright_black")


def _row(item: dict[str, Any]) -> list[str | Text]:
    named: list[str | Text] = [item["route"], item["tier"], f"{item['provider']}/{item['model']}"]
    if item["source"] == "unknown":
        return [*named, *[""] * (len(_COLUMNS) - len(named) - 1), Text("unknown", style=_SOURCE_STYLES["unknown"])]
    rates = (item[f"{name}_usd_per_mtok"] for name in ("input", "output", "cached_input", "cache_write"))
    return [
        *named,
        *(_rate(rate) for rate in rates),
        dollars(item["per_call_nano"]) if item["per_call_nano"] else "",
        dollars(item["worst_call_nano"]),
        (item["changes_at"] or "")[:10],
        Text(plain(item["version"]).plain, style=_SOURCE_STYLES.get(item["source"], "")),
    ]


def _notes(item: dict[str, Any]) -> list[str]:
    """What does not fit into a row."""
    if item["source"] == "unknown":
        return [item["remedy"]]
    notes = [
        f"above {step['input_tokens']:,} tokens of input {_rate(step['input_usd_per_mtok'])} in, "
        f"{_rate(step['output_usd_per_mtok'])} out"
        for step in item["above"]
    ]
    if item["reasoning_usd_per_mtok"] != item["output_usd_per_mtok"]:
        notes.append(f"reasoning {_rate(item['reasoning_usd_per_mtok'])}")
    if item["cache_write_long_usd_per_mtok"] != item["cache_write_usd_per_mtok"]:
        notes.append(f"written to the long-lived cache {_rate(item['cache_write_long_usd_per_mtok'])}")
    if "usd_per_hour" in item:
        hour, tokens = item["usd_per_hour"], item["mtok_per_hour"]
        notes.append(f"{hour:g} dollars an hour over {tokens:g} million tokens, so {_rate(hour / tokens)} each")
    return notes


def _rate(usd_per_mtok: float) -> str:
    return f"{usd_per_mtok:,.6f}".rstrip("0").rstrip(".")
