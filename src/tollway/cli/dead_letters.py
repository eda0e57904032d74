"""`tollway dead-letters`: runs that ran out of attempts, grouped by what killed them, and their replay."""

from typing import Any

import click

from tollway.cli._command import Session, client_command, example
from tollway.cli._errors import DONE, FAILED
from tollway.cli._output import console, print_json, print_table

_ERROR_CHARS = 80


@click.group("dead-letters", epilog=example("tollway dead-letters list", "tollway dead-letters replay --agent triage"))
def dead_letters() -> None:
    """List and replay dead runs."""


@dead_letters.command("list", epilog=example("tollway dead-letters list --agent triage"))
@click.option("--agent", help="Only runs of this agent.")
@click.option("--tenant", help="Only runs of this tenant.")
@client_command
async def list_groups(session: Session, **filters: str | None) -> None:
    """List dead runs, grouped by the fingerprint of their error."""
    given = {name: value for name, value in filters.items() if value is not None}
    groups = [group async for group in session.client.dead_letters(**given)]
    if session.as_json:
        print_json({"items": groups, "next": None})
        return
    columns = ("fingerprint", ">runs", "agent", "error", "last", "a run")
    print_table(columns, map(_row, groups), empty="no dead letters")


@dead_letters.command("replay", epilog=example("tollway dead-letters replay --agent triage --yes"))
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--agent", help="All dead runs of this agent.")
@click.option("--tenant", help="All dead runs of this tenant.")
@click.option("--fingerprint", help="All dead runs of this group.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_command
async def replay_dead(session: Session, *, ids: tuple[str, ...], yes: bool, **filters: str | None) -> int:
    """Replay dead runs as new runs: those named, or those that match."""
    wanted = {name: value for name, value in filters.items() if value is not None}
    if bool(ids) == bool(wanted):
        raise click.UsageError("name either runs, or a filter: --agent, --tenant, --fingerprint")
    if ids:
        answer = await session.client.replay_dead_letters(ids)
    else:
        count = int((await session.client.replay_dead_letters(filter=wanted)).get("count", 0))
        if count and not yes:
            click.confirm(f"Replay {count} dead runs?", abort=True, err=True)
        confirmed = session.client.replay_dead_letters(filter=wanted, confirm=count) if count else None
        answer = await confirmed if confirmed is not None else {"count": 0}
    count = int(answer.get("count", 0))
    replayed = int(answer.get("replayed", count))
    if session.as_json:
        print_json(answer)
    else:
        console().print(f"replayed {replayed} of {count} dead runs", markup=False)
        for result in answer.get("results", ()):
            if "error" in result:
                console().print(f"  {result['id']}  {result['error'].get('detail', '')}", style="red", markup=False)
    return DONE if replayed == count else FAILED


def _row(group: dict[str, Any]) -> tuple[str, ...]:
    error = group.get("error") or group
    runs = group.get("run_ids") or [""]
    return (
        str(group.get("fingerprint", "")),
        str(group.get("count", "")),
        str(group.get("agent", "")),
        f"{error.get('code', '')}: {error.get('message', '')}"[:_ERROR_CHARS],
        str(group.get("last_died_at", "")),
        str(runs[0]),
    )
