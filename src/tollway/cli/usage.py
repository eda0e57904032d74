"""`tollway usage`: what was called, what it cost and what was saved, by any groups; calls and cost of runs by agent."""

import sys
from pathlib import Path
from typing import Any

import click

from tollway.cli._command import Session, client_command, example
from tollway.cli._output import console, dollars, print_json, print_table
from tollway.client.usage import UsageFilter
from tollway.domain.usage import GROUPS

_FILTERS = ("tenant", "agent", "lane", "tier", "route", "step", "key", "task-type")
_SAVINGS = {
    "cache": "exact cache",
    "flight": "single flight",
    "prompt_cache": "vendor's prompt cache",
    "shift": "shifts",
}
_COLUMNS = (*(">runs", ">calls", ">share", ">input", ">output", ">cached", ">cost", ">unknown", ">saved"),)
_RUN_COLUMNS = (*("agent", ">runs", ">succeeded", ">cost", ">calls p50", ">p90", ">p99", ">cost p50", ">p90", ">p99"),)


def _filtered(function: Any) -> Any:
    """The options that say what usage is meant."""
    for name in reversed(_FILTERS):
        function = click.option(f"--{name}", help=f"Only of this {name.replace('-', ' ')}.")(function)
    return function


@click.command(
    epilog=example(
        "tollway usage --by tenant,agent --from 2026-01-01 --to 2026-02-01",
        "tollway usage --by day,tier --csv usage.csv",
        "tollway usage --runs --agent triage",
    )
)
@click.option("--by", "groups", default="agent", show_default=True, help=f"Any of {', '.join(GROUPS)}.")
@click.option("--from", "from_day", metavar="DAY", help="The first UTC day; 30 days before --to when absent.")
@click.option("--to", "to_day", metavar="DAY", help="The UTC day after the last; tomorrow when absent.")
@_filtered
@click.option("--runs", is_flag=True, help="Calls and cost a run instead, in percentiles by agent.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write all of it to this file as CSV; - is stdout.")
@client_command
async def usage(session: Session, *, groups: str, runs: bool, csv_file: str | None, **asked: str | None) -> None:
    """Show calls, tokens, money and savings of UTC days, the dearest first.

    Cost is what was settled; unknown is the worst case of calls whose outcome nobody saw. Runs count once they ended.
    """
    wanted: UsageFilter = {name: value for name, value in asked.items() if value is not None}  # type: ignore[assignment]
    by = [name.strip() for name in groups.split(",") if name.strip()]
    if runs and csv_file is not None:
        raise click.UsageError("--runs has no CSV; leave --csv out, or ask for --json")
    if csv_file is not None:
        _write(csv_file, await session.client.usage_csv(*by, **wanted))
        return
    if runs:
        await _show_runs(session, by, wanted)
        return
    report = await session.client.usage(*by, **wanted)
    if session.as_json:
        print_json(report)
        return
    _show(report)
    if by != ["tier"] and report["total"]["calls"]:
        tiers = await session.client.usage("tier", **wanted)
        shares = (f"{row['tier'] or '-'} {row['calls_share']:.1%}" for row in tiers["items"] if row["calls"])
        console().print(f"calls by tier: {'   '.join(shares)}", markup=False)


def _show(report: dict[str, Any]) -> None:
    groups, total = report["group_by"], report["total"]
    rows = sorted(report["items"], key=lambda row: -row["cost_nano"] - row["unknown_nano"])
    shown = [_row(row, groups) for row in rows] if groups else []
    if shown:
        shown.append(_row({**total, **dict.fromkeys(groups, ""), groups[0]: "total", "calls_share": 1.0}, groups))
    elif total["runs"] or total["calls"] or total["hits"]:
        shown.append(_row({**total, "calls_share": 1.0}, []))
    days = f"{report['from']} to before {report['to']} (UTC)"
    print_table((*groups, *_COLUMNS), shown, empty=f"nothing was used from {days}")
    if shown:
        saved = ((words, total["saved"][f"{name}_usd"]) for name, words in _SAVINGS.items())
        told = "   ".join(f"{words} {dollars(round(usd * 1e9))}" for words, usd in saved if usd)
        console().print(f"{days}   saved: {told or 'nothing'}", markup=False)


def _row(row: dict[str, Any], groups: list[str]) -> tuple[str, ...]:
    return (
        *("-" if row[name] is None else row[name] for name in groups),
        f"{row['runs']:,}",
        f"{row['calls']:,}",
        f"{row['calls_share']:.1%}",
        f"{row['input_tokens']:,}",
        f"{row['output_tokens']:,}",
        f"{row['cached_tokens']:,}",
        dollars(row["cost_nano"]),
        dollars(row["unknown_nano"]) if row["unknown_nano"] else "",
        dollars(row["saved_nano"]) if row["saved_nano"] else "",
    )


async def _show_runs(session: Session, by: list[str], wanted: UsageFilter) -> None:
    report = await session.client.usage_runs(*by, **wanted)
    if session.as_json:
        print_json(report)
        return
    tenants = "tenant" in by
    print_table(
        (*(["tenant"] if tenants else []), *_RUN_COLUMNS),
        (_run_row(row, tenants=tenants) for row in report["items"]),
        empty=f"no run ended from {report['from']} to before {report['to']} (UTC)",
    )


def _run_row(row: dict[str, Any], *, tenants: bool) -> tuple[str, ...]:
    calls, costs = row["calls_per_run"], row["cost_nano_per_run"]
    return (
        *([row["tenant"]] if tenants else []),
        row["agent"],
        f"{row['runs']:,}",
        f"{row['states'].get('succeeded', 0) / row['runs']:.1%}",
        dollars(row["cost_nano"]),
        *(f"{calls[name]:,}" for name in ("p50", "p90", "p99")),
        *(dollars(costs[name]) for name in ("p50", "p90", "p99")),
    )


def _write(name: str, table: bytes) -> None:
    if name == "-":
        sys.stdout.write(table.decode())
        return
    try:
        Path(name).write_bytes(table)
    except OSError as error:
        raise click.UsageError(f"--csv {name}: {error.strerror}") from None
    rows = max(table.count(b"\n") - 1, 0)
    click.echo(f"{name}: {rows:,} rows", err=True)
