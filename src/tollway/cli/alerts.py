"""`tollway alerts`: what was told of budgets, spending and routes, as a list or as it comes."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from tollway.cli._command import Seconds, Session, client_command, example
from tollway.cli._output import age, console, plain, print_json, print_json_line, print_table
from tollway.domain.alerts import AlertKind

_FOLLOW_EVERY_S = 2.0
_LATE_S = 30.0
"""An alert's id is made a little before it can be read, so a look goes back as far."""


@click.command(
    epilog=example("tollway alerts --open", "tollway alerts --kind spend_spike --since 1d", "tollway alerts --follow")
)
@click.option("--tenant", help="Only of this tenant.")
@click.option("--kind", type=click.Choice([kind.value for kind in AlertKind]), help="Only of this kind.")
@click.option("--since", type=Seconds(), help="Only those told so long ago at most.")
@click.option("--open", "only_open", is_flag=True, help="Only those that are not over.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many at most.")
@click.option("--follow", is_flag=True, help="Show new ones as they are told, until Ctrl-C.")
@client_command
async def alerts(
    session: Session, *, limit: int, since: float | None, only_open: bool, follow: bool, **named: str | None
) -> None:
    """Show alerts, newest first: budgets that near their end, spikes, lasting fallback, estimates too low.

    A tenant's key sees its own.
    """
    session.interrupted = ""
    filters = {name: value for name, value in named.items() if value}
    if only_open:
        filters["open"] = "true"
    known = await _lately(session, filters, await _read(session, filters, 1)) if follow else []
    found = await _read(session, filters if since is None else {**filters, "since": _ago(since)}, limit)
    if follow:
        await _follow(session, filters, found, known)
    elif session.as_json:
        print_json({"items": found, "next": None})
    else:
        print_table(("told", "kind", "tenant", "subject", "over", "what"), map(_row, found), empty="no alerts")


async def _read(session: Session, filters: dict[str, str], limit: int) -> list[dict[str, Any]]:
    found = []
    async for alert in session.client.alerts(**filters):
        found.append(alert)
        if len(found) == limit:
            break
    return found


async def _lately(session: Session, filters: dict[str, str], known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was told since the newest that is known, and a little before, by the server's clock."""
    since = {}
    if known:
        newest = max(_moment(alert["at"]) for alert in known)
        since = {"since": _rfc3339(newest - timedelta(seconds=_LATE_S))}
    return [alert async for alert in session.client.alerts(**filters, **since)]


async def _follow(
    session: Session, filters: dict[str, str], found: list[dict[str, Any]], known: list[dict[str, Any]]
) -> None:
    """Print what was found, oldest first, and then whatever is neither in it nor known."""
    seen: set[str] = set()
    while True:
        for alert in reversed(found):
            if alert["id"] not in seen:
                _print(session, alert)
        seen |= {alert["id"] for alert in (*found, *known)}
        known = found or known
        await asyncio.sleep(_FOLLOW_EVERY_S)
        found = await _lately(session, filters, known)


def _print(session: Session, alert: dict[str, Any]) -> None:
    if session.as_json:
        print_json_line(alert)
    else:
        _, *words = _row(alert)
        console().print(plain("  ".join((alert["at"], *(word for word in words if word)))))


def _row(alert: dict[str, Any]) -> list[str]:
    data = {name: value for name, value in alert["data"].items() if value is not None and not name.endswith("_nano")}
    told = " ".join(f"{name}={_shown(value)}" for name, value in data.items())
    over = age(_moment(alert["over_at"])) if alert["over_at"] else ""
    return [age(_moment(alert["at"])), alert["kind"], alert["tenant"] or "", alert["subject"], over, told]


def _shown(value: Any) -> str:
    """A value as people read it; a number to the nano-dollar, never in powers of ten."""
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    return value if isinstance(value, str) else json.dumps(value)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _ago(seconds: float) -> str:
    now = datetime.now(UTC)
    past = timedelta(seconds=min(seconds, now.timestamp()))
    return _rfc3339(now - past)


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
