"""`tollway show`: one run, whole."""

import click

from tollway.cli._command import Session, client_command, example
from tollway.cli._output import console, pretty, print_json


@click.command(epilog=example("tollway show 019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071 --events"))
@click.argument("run_id", metavar="ID")
@click.option("--steps", "with_steps", is_flag=True, help="Add each step's route, tokens, cost and error.")
@click.option("--events", "with_events", is_flag=True, help="Add the run's events.")
@client_command
async def show(session: Session, *, run_id: str, with_steps: bool, with_events: bool) -> None:
    """Show the run ID: state, times, money, its steps on a time line, input and outcome.

    With --json: the run as the API shows it, with `steps` and `events` added when asked for.
    """
    run = await session.client.get(run_id)
    steps = await session.client.steps(run_id) if with_steps or not session.as_json else ()
    events = await session.client.past_events(run_id) if with_events else ()
    if session.as_json:
        document = dict(run.document)
        if with_steps:
            document["steps"] = [step.document for step in steps]
        if with_events:
            document["events"] = [event.document for event in events]
        print_json(document)
        return
    from tollway.cli import _run_view as view  # noqa: PLC0415 - only people need the view

    view.print_head(run)
    console().print("\ninput", style="bold")
    console().print(pretty(run.input))
    if steps:
        console().print()
        view.print_timeline(run, steps)
    if with_steps and steps:
        console().print()
        view.print_steps(steps)
    if with_events:
        console().print("\nevents", style="bold")
        view.print_events(run, events)
    if run.final:
        console().print("\noutcome", style="bold")
        view.print_outcome(run)
