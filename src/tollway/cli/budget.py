"""`tollway budget`: money that tenants may spend in a period."""

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import click

from tollway.cli._command import Number, Session, client_command, example, finite
from tollway.cli._output import print_json, print_table
from tollway.cli.budget_rungs import COMMANDS

_SCOPE = ("agent", "lane", "task_type", "key")
_IDENTITY = ("period", "timezone", *_SCOPE)
_SETTINGS = (*_IDENTITY, "hard_usd", "soft_usd", "on_hard", "ladder", "interactive_share")
_PERIODS = ("day", "week", "month", "total")
_RUNGS = ("alert", "throttle", "lower_tier", "fewer_tokens", "cached_only", "park", "refuse")


class _Amount(click.ParamType[Any]):
    """Dollars, or `none` to lift the limit."""

    name = "usd|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the string `none`; fails with a usage error."""
        if value == "none":
            return value
        try:
            return finite(value)
        except ValueError:
            self.fail(f"{value!r} is neither an amount of dollars nor none", param, ctx)


class _Ladder(click.ParamType[Any]):
    """Steps such as `80:lower_tier,100:park`, or `none`."""

    name = "pct:rung,…|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The steps as the API takes them; fails with a usage error."""
        if value == "none" or isinstance(value, list):
            return [] if value == "none" else value
        steps = []
        for step in value.split(","):
            at_pct, _, rung = step.strip().partition(":")
            try:
                steps.append({"at_pct": finite(at_pct), "rung": rung})
            except ValueError:
                self.fail(f"{step!r} is no step; write 80:lower_tier,100:park", param, ctx)
            if rung not in _RUNGS:
                self.fail(f"{rung!r} is no rung; the rungs are {', '.join(_RUNGS)}", param, ctx)
        return steps


@click.group(epilog=example("tollway budget set acme --period month --hard 100 --soft 80", "tollway budget list acme"))
def budget() -> None:
    """Bound what a tenant spends: as a whole, or by agent, lane, task type or key; by day, week, month, in total."""


for _command in COMMANDS:
    budget.add_command(_command)


@budget.command("list", epilog=example("tollway budget list acme", "tollway budget list acme --json"))
@click.argument("tenant_id", metavar="TENANT")
@client_command
async def list_budgets(session: Session, *, tenant_id: str) -> None:
    """List the budgets of TENANT and how they stand in their present period. A tenant's key sees its own."""
    show_budgets(session, await session.client.budgets(tenant_id))


def _identified(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which budget is meant."""
    for option in (
        click.option("--key", help="Only calls with this API key, or of runs submitted with it: its id."),
        click.option("--task-type", help="Only calls whose metadata has this task_type."),
        click.option("--lane", help="Only calls in this lane."),
        click.option("--agent", help="Only this agent's calls."),
        click.option("--timezone", default="UTC", show_default=True, help="In which the period begins."),
        click.option("--period", type=click.Choice(_PERIODS), required=True, help="How long it lasts."),
    ):
        function = option(function)
    return function


@budget.command(
    "set",
    epilog=example(
        "tollway budget set acme --period month --hard 100 --soft 80 --timezone Europe/Berlin",
        'tollway budget set acme --period day --agent triage --hard 5 --ladder "80:lower_tier,100:park"',
        "tollway budget set acme --period total --hard 20 --on-hard refuse",
    ),
)
@click.argument("tenant_id", metavar="TENANT")
@_identified
@click.option("--hard", "hard_usd", type=_Amount(), help="Dollars that are never exceeded.")
@click.option("--soft", "soft_usd", type=_Amount(), help="Dollars from which on alerts are raised.")
@click.option("--on-hard", type=click.Choice(("park", "refuse")), help="What becomes of runs when it is spent.")
@click.option("--ladder", type=_Ladder(), help="From which per cent of the hard limit on service degrades, and how.")
@click.option("--interactive-share", type=Number(), help="Part of it, 0 to 1, kept for the interactive lane.")
@client_command
async def set_budget(session: Session, *, tenant_id: str, **given: Any) -> None:
    """Make a budget of TENANT, or change what is given of it. Needs an admin key.

    A budget is what it covers, its period and its time zone; the others of TENANT stay as they are.
    """
    wanted = {name: None if value == "none" else value for name, value in given.items() if value is not None}

    def change(found: dict[str, Any]) -> dict[str, Any]:
        others = [settings_of(shown) for shown in found["items"]]
        merged = [{**other, **wanted} if _identity(other) == _identity(wanted) else other for other in others]
        if not any(_identity(other) == _identity(wanted) for other in others):
            merged.append(wanted)
        return {"budgets": merged}

    show_budgets(session, (await session.client.revise(_path(tenant_id), change))["items"])


@budget.command(
    "remove",
    epilog=example(
        "tollway budget remove acme --period month", "tollway budget remove acme --period day --agent triage"
    ),
)
@click.argument("tenant_id", metavar="TENANT")
@_identified
@client_command
async def remove_budget(session: Session, *, tenant_id: str, **given: Any) -> None:
    """Remove a budget of TENANT: what waits for its money goes on. Needs an admin key."""
    seen = False

    def change(found: dict[str, Any]) -> dict[str, Any]:
        nonlocal seen
        kept = [settings_of(one) for one in found["items"] if _identity(one) != _identity(given)]
        seen = seen or len(kept) < len(found["items"])
        if not seen:  # at a second look it may be gone by the first, whose answer was lost
            known = f"`tollway budget list {tenant_id}` shows what it has"
            raise click.UsageError(f"{tenant_id} has no such budget; {known}")
        return {"budgets": kept}

    show_budgets(session, (await session.client.revise(_path(tenant_id), change))["items"])


def _path(tenant_id: str) -> str:
    return f"/v1/tenants/{quote(tenant_id, safe='')}/budgets"


def settings_of(shown: dict[str, Any]) -> dict[str, Any]:
    """What of a budget as it is shown may be put."""
    return {name: shown[name] for name in _SETTINGS if shown.get(name) is not None}


def show_budgets(session: Session, found: Sequence[dict[str, Any]]) -> None:
    """Print budgets, or their JSON."""
    if session.as_json:
        print_json({"items": list(found), "next": None})
        return
    columns = ("budget", "period", "covers", ">hard", ">soft", ">spent", ">reserved", ">left", ">%", "stands", "until")
    print_table(columns, [_row(one) for one in found], empty="no budgets")


def _row(shown: dict[str, Any]) -> list[str]:
    covers = ", ".join(f"{name.replace('_', ' ')} {shown[name]}" for name in _SCOPE if shown.get(name))
    zone = "" if shown["timezone"] == "UTC" else f" {shown['timezone']}"
    standing = ["exhausted"] if shown["exhausted"] else []
    return [
        shown["id"],
        f"{shown['period']}{zone}",
        covers or "everything",
        *(_dollars(shown[f"{name}_usd"]) for name in ("hard", "soft", "spent", "reserved", "left")),
        "" if shown["pct"] is None else f"{shown['pct']:.1f}",
        ", ".join([*standing, *shown.get("rungs", ())]),
        shown["ends_at"] or "",
    ]


def _dollars(amount: float | None) -> str:
    return "" if amount is None else f"{amount:.9f}".rstrip("0").rstrip(".")


def _identity(of: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(of.get(name) or ("UTC" if name == "timezone" else None) for name in _IDENTITY)
