"""`tollway cancel`: end a run that has not ended, or all that match."""

from typing import Any

import click

from tollway.cli._bulk import count_and_act, given
from tollway.cli._command import Session, client_command, example, pairs
from tollway.cli._output import console, print_json
from tollway.domain.words import LIVE_STATES, RunState


@click.command(
    epilog=example(
        "tollway cancel 019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071",
        "tollway cancel --agent triage --lane batch --state queued",
        "tollway cancel --metadata job=42 --created-before 2026-01-31T12:00:00Z --yes --json",
    )
)
@click.argument("run_id", metavar="[ID]", required=False)
@click.option("--agent", help="All runs of this agent.")
@click.option("--lane", help="All runs of this lane.")
@click.option(
    "--state",
    type=click.Choice([state.value for state in RunState if state in LIVE_STATES]),
    help="All runs in this state.",
)
@click.option("--tenant", help="All runs of this tenant.")
@click.option("--created-after", metavar="TIME", help="RFC 3339, as 2026-01-31T12:00:00Z.")
@click.option("--created-before", metavar="TIME", help="RFC 3339, as 2026-01-31T12:00:00Z.")
@click.option("--metadata", multiple=True, metavar="K=V", help="All runs with this metadata; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="All runs that have not ended.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_command
async def cancel(
    session: Session,
    *,
    run_id: str | None,
    metadata: tuple[str, ...],
    everything: bool,
    yes: bool,
    **filters: str | None,
) -> None:
    """Cancel the run ID, or the runs that match: at once while queued, within a second while running."""
    wanted: Any = given(filters)
    if metadata:
        wanted["metadata"] = pairs(metadata, "--metadata")
    if sum((run_id is not None, bool(wanted), everything)) != 1:
        raise click.UsageError("name either a run, or a filter such as --agent or --lane, or --all")
    if run_id is not None:
        await _cancel_one(session, run_id)
        return
    client = session.client
    answer = await count_and_act(
        lambda count, seen: client.cancel_many(wanted, confirm=count, snapshot=seen), "Cancel {count} runs?", yes=yes
    )
    if session.as_json:
        print_json(answer)
        return
    told = {name: int(answer.get(name, 0)) for name in ("cancelled", "cancelling", "ended_before", "left")}
    words = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in told.items() if count)
    console().print(f"of {answer['count']:,} runs: {words}" if words else "no runs match", markup=False)


async def _cancel_one(session: Session, run_id: str) -> None:
    run = await session.client.cancel(run_id)
    if session.as_json:
        print_json(run.document)
        return
    told = "cancelled" if run.state == "cancelled" else f"{run.state}, being cancelled"
    console().print(f"{told}  {run.id}", markup=False)
