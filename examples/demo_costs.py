"""The demo's cost report: dollars by agent and tier, what was saved, and whether the provider agrees."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tollway.client import Client
from tollway.domain.money import usd

_SUMMED_UP_S = 15.0
_LOOK_EVERY_S = 0.2

Row = dict[str, Any]


async def read_costs(admin: Client, calls: int) -> list[Row]:
    """Usage by agent and tier, once the keeper has summed up so many calls; what there is, if that takes too long."""
    stop = time.monotonic() + _SUMMED_UP_S
    while True:
        rows: list[Row] = (await admin.call("GET", "/v1/usage", query=[("group_by", "agent,tier")]))["items"]
        if sum(row["calls"] for row in rows) >= calls or time.monotonic() > stop:
            return rows
        await asyncio.sleep(_LOOK_EVERY_S)


def show_costs(console: Console, rows: Sequence[Row], provider_nano: int | None) -> bool:
    """Print the report; whether the dollars are the provider's own to the nano-dollar, where it tells."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("agent", "tier", "calls", "given again", "dollars", "cache saved", "flight saved"):
        table.add_column(name, justify="left" if name in ("agent", "tier") else "right")
    for row in sorted(rows, key=lambda row: -row["cost_nano"]):
        table.add_row(row["agent"], row["tier"] or "", *_cells([row]))
    table.add_row("all", "", *_cells(rows), style="bold")
    console.print(table)
    spent = sum(row["cost_nano"] for row in rows)
    if provider_nano is None:
        return True
    agrees: bool = spent == provider_nano
    told = "says the same" if agrees else f"says ${usd(provider_nano):.6f}"
    console.print(Text(f"the provider's own ledger {told}", style="green" if agrees else "bold red"))
    return agrees


def _cells(rows: Sequence[Row]) -> list[str]:
    """The figures of some rows together."""
    dollars = [usd(sum(row["cost_nano"] for row in rows))]
    dollars += [sum(row["saved"][name] for row in rows) for name in ("cache_usd", "flight_usd")]
    counts = [sum(row[name] for row in rows) for name in ("calls", "hits")]
    return [*(f"{count:,}" for count in counts), *(f"${each:.6f}" for each in dollars)]
