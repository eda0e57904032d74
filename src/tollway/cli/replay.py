"""`tollway replay`: an ended run again, as a new one."""

import click
import msgspec

from tollway.cli._bulk import patch_of
from tollway.cli._command import Session, client_command, example, parse_json
from tollway.cli._output import console, print_json


@click.command(
    epilog=example(
        "tollway replay 019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071 --from-step 2",
        "tollway replay 019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071 --from-failed-step",
        "tollway replay 019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071 --input @ticket.json",
    )
)
@click.argument("run_id", metavar="ID")
@click.option("--input", "input_json", metavar="JSON", help='Another input; "-" reads stdin, "@file" a file.')
@click.option("--patch", metavar="JSON", help="What changes in the input: a JSON merge patch.")
@click.option("--from-step", type=click.IntRange(1), help="Take over the recorded steps before this one.")
@click.option("--from-failed-step", is_flag=True, help="Take over every finished step.")
@client_command
async def replay(
    session: Session,
    *,
    run_id: str,
    input_json: str | None,
    patch: str | None,
    from_step: int | None,
    from_failed_step: bool,
) -> None:
    """Start a new run with the input of the run ID; it says so in `replay_of`."""
    if from_step is not None and from_failed_step:
        raise click.UsageError("give --from-step or --from-failed-step, not both")
    if input_json is not None and patch is not None:
        raise click.UsageError("give --input or --patch, not both")
    run = await session.client.replay(
        run_id,
        input=msgspec.UNSET if input_json is None else parse_json(input_json, "--input"),
        input_patch=None if patch is None else patch_of(patch),
        from_step=from_step,
        from_failed_step=from_failed_step,
    )
    if session.as_json:
        print_json(run.document)
        return
    console().print(f"accepted  {run.id}  (replay of {run_id})", style="bold", markup=False)
    console().print(f"see it:  tollway show {run.id}", style="bright_black", markup=False)
