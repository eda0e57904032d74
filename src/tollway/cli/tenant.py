"""`tollway tenant`: who is billed, limited and isolated."""

from collections.abc import Callable
from typing import Any

import click

from tollway.cli._command import Number, Session, client_command, example, finite
from tollway.cli._output import console, print_json, print_table
from tollway.cli.budget import show_budgets


class _Limit(click.ParamType[Any]):
    """A number, or `none` to lift the limit."""

    name = "number|none"

    def __init__(self, kind: Callable[[str], int | float]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the string `none`; fails with a usage error."""
        if value == "none":
            return value
        try:
            return self._kind(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor none", param, ctx)


_SHOWN = ("name", "weight", "runs_per_s", "max_queued", "max_running", "tokens_per_min", "tokens_per_day", "paused")

_USED = (
    ("queued", "max_queued"),
    ("running", "max_running"),
    ("runs_per_s", "runs_per_s"),
    ("tokens_min", "tokens_per_min"),
    ("tokens_day", "tokens_per_day"),
)


@click.group(epilog=example("tollway tenant set acme --weight 2 --max-running 50"))
def tenant() -> None:
    """Create tenants, set their limits, list them, show their use."""


@tenant.command(
    "set",
    epilog=example("tollway tenant set acme --weight 2 --runs-per-s 100", "tollway tenant set acme --max-queued none"),
)
@click.argument("tenant_id", metavar="ID")
@click.option("--name", help="How people call it.")
@click.option("--weight", type=Number(), help="Its share of what is contended for; others have 1.")
@click.option("--runs-per-s", type=_Limit(finite), help="Submits it may make a second.")
@click.option("--max-queued", type=_Limit(int), help="Runs it may have queued.")
@click.option("--max-running", type=_Limit(int), help="Runs it may have running.")
@click.option("--tokens-per-min", type=_Limit(int), help="Tokens it may use a minute.")
@click.option("--tokens-per-day", type=_Limit(int), help="Tokens it may use a day.")
@click.option("--paused/--resumed", default=None, help="Hold back, or let go, its queued runs.")
@click.option("--alert-webhook", metavar="URL|none", help="Where its alerts are posted.")
@click.option("--alert-secret-env", metavar="NAME", help="The keeper's variable with the secret that signs them.")
@client_command
async def set_tenant(
    session: Session, *, tenant_id: str, alert_webhook: str | None, alert_secret_env: str | None, **settings: Any
) -> None:
    """Create the tenant ID, or change what is given of its settings. Needs an admin key."""
    given: Any = {name: None if value == "none" else value for name, value in settings.items() if value is not None}
    if alert_secret_env is not None and alert_webhook in (None, "none"):
        raise click.UsageError("--alert-secret-env goes with --alert-webhook URL")
    if alert_webhook is not None:
        hook = {"url": alert_webhook, "secret_env": alert_secret_env}
        given["alert_webhook"] = None if alert_webhook == "none" else hook
    answer = await session.client.put_tenant(tenant_id, **given)
    if session.as_json:
        print_json(answer)
        return
    told = ", ".join(f"{name} {value}" for name, value in answer.items() if name in _SHOWN and value is not None)
    console().print(f"{tenant_id}  {told}", markup=False)


@tenant.command("use", epilog=example("tollway tenant use acme", "tollway tenant use acme --json"))
@click.argument("tenant_id", metavar="ID")
@client_command
async def show_use(session: Session, *, tenant_id: str) -> None:
    """Show what the tenant ID uses of its quotas and budgets now. A tenant's key sees its own."""
    use = await session.client.tenant_use(tenant_id)
    budgets = await session.client.budgets(tenant_id)
    if session.as_json:
        print_json({**use, "budgets": list(budgets)})
        return
    limits = use["limits"]
    rows = []
    for what, limit in _USED:
        used = "" if limit == "runs_per_s" else "not counted" if use[what] is None else str(use[what])
        rows.append([what.replace("_", " "), used, str(limits.get(limit, ""))])
    print_table(("of", ">used", ">limit"), rows, empty="")
    if budgets:
        show_budgets(session, budgets)


@tenant.command("list", epilog=example("tollway tenant list"))
@client_command
async def list_tenants(session: Session) -> None:
    """List tenants with their settings. Needs an admin key."""
    tenants = [item async for item in session.client.tenants()]
    if session.as_json:
        print_json({"items": tenants, "next": None})
        return
    rows = (["" if item.get(name) is None else str(item[name]) for name in ("id", *_SHOWN)] for item in tenants)
    columns = ("tenant", *(name if name == "name" else f">{name.replace('_', ' ')}" for name in _SHOWN))
    print_table(columns, rows, empty="no tenants")
