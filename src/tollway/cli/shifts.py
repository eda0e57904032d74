"""`tollway shifts`: whose calls of one tier are served by another."""

from collections.abc import Sequence
from typing import Any

import click

from tollway.cli._command import Session, client_command, example
from tollway.cli._output import print_json, print_table

_NAMES = ("tenant", "agent", "task_type")


class _ListByDefault(click.Group):
    """Without the name of a command it lists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, beginning with a command."""
        asks_help = args[:1] in (["-h"], ["--help"])
        if not args or (args[0].startswith("-") and not asks_help):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def _named(function: Any) -> Any:
    """The options that say whom a shift is for."""
    function = click.option("--task-type", help="Only calls of runs whose metadata has this task_type.")(function)
    function = click.option("--agent", help="Only this agent's calls.")(function)
    return click.option("--tenant", help="Only this tenant's calls.")(function)


@click.group(cls=_ListByDefault, epilog=example("tollway shifts", "tollway shifts set powerful capable --tenant acme"))
def shifts() -> None:
    """Serve calls of one tier by another: for everybody, a tenant, an agent, a task type. Lists by default."""


@shifts.command("list", epilog=example("tollway shifts list --json"))
@client_command
async def list_shifts(session: Session) -> None:
    """List the shifts in force. Needs an admin key."""
    _show(session, await session.client.shifts())


@shifts.command(
    "set",
    epilog=example(
        "tollway shifts set powerful capable", "tollway shifts set fast capable --tenant acme --task-type legal"
    ),
)
@click.argument("from_tier", metavar="FROM")
@click.argument("to_tier", metavar="TO")
@_named
@client_command
async def set_shift(session: Session, *, from_tier: str, to_tier: str, **named: str | None) -> None:
    """Serve calls of the tier FROM by the tier TO; a shift of FROM for the same callers is replaced.

    The shift that names most wins; FROM to FROM exempts callers from a wider one. Needs an admin key.
    """
    shift = {**{name: value for name, value in named.items() if value}, "from_tier": from_tier, "to_tier": to_tier}

    def change(found: dict[str, Any]) -> list[dict[str, Any]]:
        return [*(other for other in found["items"] if _callers(other) != _callers(shift)), shift]

    _show(session, (await session.client.revise("/v1/shifts", change))["items"])


@shifts.command("clear", epilog=example("tollway shifts clear", "tollway shifts clear --tenant acme"))
@_named
@client_command
async def clear_shifts(session: Session, **named: str | None) -> None:
    """End all shifts, or those that name this tenant, agent or task type. Needs an admin key."""
    wanted = {name: value for name, value in named.items() if value}

    def change(found: dict[str, Any]) -> list[dict[str, Any]]:
        if not wanted:
            return []
        return [shift for shift in found["items"] if any(shift.get(name) != value for name, value in wanted.items())]

    _show(session, (await session.client.revise("/v1/shifts", change))["items"])


def _callers(shift: dict[str, Any]) -> tuple[Any, ...]:
    return (shift["from_tier"], *(shift.get(name) for name in _NAMES))


def _show(session: Session, found: Sequence[dict[str, Any]]) -> None:
    if session.as_json:
        print_json({"items": list(found), "next": None})
        return
    rows = ([str(shift.get(name) or "") for name in (*_NAMES, "from_tier", "to_tier")] for shift in found)
    print_table(("tenant", "agent", "task type", "from tier", "to tier"), rows, empty="no shifts")
