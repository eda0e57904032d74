"""`tollway submit`: one run, accepted and left to itself, waited for, or watched live."""

from typing import cast

import click

from tollway.cli._command import Seconds, Session, client_command, example, pairs, parse_json
from tollway.cli._errors import DONE, FAILED
from tollway.cli._output import console, print_json
from tollway.client import RunView, SubmitOptions
from tollway.domain.concurrency import POLICIES


@click.command(
    epilog=example(
        """tollway submit triage '{"text": "My card has not arrived"}' --watch""",
        "tollway submit triage @ticket.json --lane batch --metadata source=mail",
        "tollway submit summarise @page.json --concurrency-key doc-17 --concurrency-policy cancel_running",
    )
)
@click.argument("agent")
@click.argument("input_json", metavar="JSON")
@click.option("--watch", is_flag=True, help="Show steps and tokens as they come, then the result.")
@click.option("--wait", type=Seconds(), help="Return when the run has ended, or after this long.")
@click.option("--lane", help="interactive, standard or batch; else the agent's own.")
@click.option("--tenant", "acting_for", metavar="TENANT", help="Whom an admin key acts for.")
@click.option("--metadata", multiple=True, metavar="K=V", help="Kept with the run, to find it by; may be repeated.")
@click.option("--delay", type=Seconds(), help="Start no sooner than after this long.")
@click.option("--deadline", type=Seconds(), help="Let the run expire after this long.")
@click.option("--ttl", type=Seconds(), help="Let the run expire if it has not started after this long.")
@click.option(
    "--priority",
    type=Seconds(),
    help="Head start within its lane: it stands in line as if submitted this much earlier.",
)
@click.option("--concurrency-key", metavar="KEY", help="Of the runs with one key, one runs at a time.")
@click.option(
    "--concurrency-policy",
    type=click.Choice(POLICIES),
    help="If the key is taken: wait (queue, the default), give up (cancel_newest), or take its place (cancel_running).",
)
@click.option("--idempotency-key", metavar="KEY", help="A second submit with the same key is the same run.")
@client_command
async def submit(
    session: Session,
    *,
    agent: str,
    input_json: str,
    watch: bool,
    wait: float | None,
    lane: str | None,
    metadata: tuple[str, ...],
    delay: float | None,
    deadline: float | None,
    ttl: float | None,
    priority: float | None,
    concurrency_key: str | None,
    concurrency_policy: str | None,
    idempotency_key: str | None,
) -> int:
    """Submit a run of AGENT with JSON as its input ("-" reads stdin, "@file" a file).

    Once accepted a run is not lost. With --watch or --wait the exit code is 1 unless it succeeded.
    """
    if watch and wait is not None:
        raise click.UsageError("--watch and --wait exclude each other")
    given = {
        "lane": lane,
        "metadata": pairs(metadata, "--metadata") or None,
        "delay_s": delay,
        "deadline_s": deadline,
        "ttl_s": ttl,
        "priority_s": priority,
        "concurrency_key": concurrency_key,
        "concurrency_policy": concurrency_policy,
    }
    options = cast(SubmitOptions, {name: value for name, value in given.items() if value is not None})
    session.interrupted = f"interrupted; if the run was accepted, it goes on: tollway runs --agent {agent}"
    run = await session.client.submit(
        agent,
        parse_json(input_json, "JSON"),
        idempotency_key=idempotency_key,
        wait_s=wait or 0.0,
        **options,
    )
    if watch:
        from tollway.cli._watch import watch_run  # noqa: PLC0415 - the live view is not needed to submit

        return await watch_run(session, run)
    if wait is not None and not run.final:
        run = await _keep_waiting(session, run, wait - 60.0)
    return _finish(session, run, waited=wait is not None)


async def _keep_waiting(session: Session, run: RunView, more_s: float) -> RunView:
    """The run, ended or as it stands after `more_s` beyond what one request may wait."""
    session.interrupted = f"stopped waiting; run {run.id} goes on: tollway show {run.id}"
    if more_s > 0:
        try:
            return await session.client.wait(run.id, more_s)
        except TimeoutError:
            return await session.client.get(run.id)
    return run


def _finish(session: Session, run: RunView, *, waited: bool) -> int:
    if session.as_json:
        print_json(run.document)
    elif run.final:
        from tollway.cli._run_view import print_result  # noqa: PLC0415 - only once there is a result

        print_result(run)
    else:
        told = "still " + run.state if waited else "accepted"
        console().print(f"{told}  {run.id}", style="bold", markup=False)
        console().print(f"see it:  tollway show {run.id}", style="bright_black", markup=False)
    return FAILED if waited and not run.succeeded else DONE
