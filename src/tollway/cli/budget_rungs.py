"""`tollway budget force|lift|clear`: rungs of a budget's ladder by hand."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from tollway.cli._command import Session, client_command, example
from tollway.cli._output import console, print_json
from tollway.domain.budgets import Rung

_RUNG = click.Choice([rung.value for rung in Rung])


@click.command("force", epilog=example("tollway budget force acme 7 lower_tier", "tollway budget force acme 7 park"))
@click.argument("tenant_id", metavar="TENANT")
@click.argument("budget_id", metavar="BUDGET")
@click.argument("rung", type=_RUNG, metavar="RUNG")
@client_command
async def force(session: Session, *, tenant_id: str, budget_id: str, rung: str) -> None:
    """Put BUDGET of TENANT on RUNG now, whatever was spent of it. Needs an admin key.

    RUNG is alert, throttle, lower_tier, fewer_tokens, cached_only, park or refuse.
    """
    await _revise(session, _path(tenant_id, budget_id), lambda forced, lifted: (forced | {rung}, lifted - {rung}))


@click.command("lift", epilog=example("tollway budget lift acme 7 lower_tier"))
@click.argument("tenant_id", metavar="TENANT")
@click.argument("budget_id", metavar="BUDGET")
@click.argument("rung", type=_RUNG, metavar="RUNG")
@client_command
async def lift(session: Session, *, tenant_id: str, budget_id: str, rung: str) -> None:
    """Keep BUDGET of TENANT off RUNG, whatever was spent of it; its hard limit holds. Needs an admin key."""
    await _revise(session, _path(tenant_id, budget_id), lambda forced, lifted: (forced - {rung}, lifted | {rung}))


@click.command("clear", epilog=example("tollway budget clear acme 7", "tollway budget clear acme 7 lower_tier"))
@click.argument("tenant_id", metavar="TENANT")
@click.argument("budget_id", metavar="BUDGET")
@click.argument("rung", type=_RUNG, metavar="[RUNG]", required=False)
@client_command
async def clear(session: Session, *, tenant_id: str, budget_id: str, rung: str | None) -> None:
    """Neither force nor lift RUNG of BUDGET any more, or without RUNG any of them. Needs an admin key."""
    over = set(Rung) if rung is None else {Rung(rung)}
    await _revise(session, _path(tenant_id, budget_id), lambda forced, lifted: (forced - over, lifted - over))


COMMANDS = (force, lift, clear)
"""Commands of `tollway budget`."""


def _path(tenant_id: str, budget_id: str) -> str:
    return f"/v1/tenants/{quote(tenant_id, safe='')}/budgets/{quote(budget_id, safe='')}/rungs"


async def _revise(
    session: Session, path: str, change: Callable[[set[str], set[str]], tuple[set[str], set[str]]]
) -> None:
    """Change what is forced and what is lifted, and show it."""

    def body_of(found: dict[str, Any]) -> dict[str, Any]:
        forced, lifted = change(set(found["forced"]), set(found["lifted"]))
        return {"forced": sorted(forced), "lifted": sorted(lifted)}

    found: dict[str, Any] = await session.client.revise(path, body_of)
    if session.as_json:
        print_json(found)
        return
    said = [f"{name} {', '.join(found[name])}" for name in ("forced", "lifted") if found[name]]
    console().print(f"budget {found['id']} of {found['tenant']}: {'; '.join(said) or 'nothing by hand'}", markup=False)
