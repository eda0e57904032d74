"""`tollway cancel`: end a run that has not ended."""

import click

from tollway.cli._command import Session, client_command, example
from tollway.cli._output import console, print_json


@click.command(epilog=example("tollway cancel 019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071"))
@click.argument("run_id", metavar="ID")
@client_command
async def cancel(session: Session, *, run_id: str) -> None:
    """Cancel the run ID: at once while it is queued, within a second while it runs."""
    run = await session.client.cancel(run_id)
    if session.as_json:
        print_json(run.document)
        return
    told = "cancelled" if run.state == "cancelled" else f"{run.state}, being cancelled"
    console().print(f"{told}  {run.id}", markup=False)
