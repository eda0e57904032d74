"""`tollway dead-letters`: runs that ran out of attempts, grouped by what killed them: look, replay, discard."""

from collections.abc import Callable
from typing import Any

import click

from tollway.cli._bulk import count_and_act, given, patch_of, show_results
from tollway.cli._command import Session, client_command, example, parse_json
from tollway.cli._output import console, dollars, print_json, print_table

_ERROR_CHARS = 80
_WHICH = "name either runs, or a filter: --fingerprint, --agent, --code, --lane, --tenant"


@click.group("dead-letters", epilog=example("tollway dead-letters list", "tollway dead-letters replay --agent triage"))
def dead_letters() -> None:
    """List, replay and discard dead runs."""


def _filters(what: str, *, group: bool = True) -> Callable[[Any], Any]:
    """The options that choose dead runs."""
    options = {
        "agent": "of this agent",
        "code": "with this error code",
        "lane": "of this lane",
        "tenant": "of this tenant",
    }
    if group:
        options["fingerprint"] = "of this group"

    def decorate(function: Any) -> Any:
        for name, meaning in reversed(options.items()):
            function = click.option(f"--{name}", help=f"{what} {meaning}.")(function)
        return function

    return decorate


@dead_letters.command("list", epilog=example("tollway dead-letters list --agent triage"))
@_filters("Only runs")
@client_command
async def list_groups(session: Session, **filters: str | None) -> None:
    """List dead runs, grouped by the fingerprint of their error."""
    groups = [group async for group in session.client.dead_letters(**given(filters))]
    if session.as_json:
        print_json({"items": groups, "next": None})
        return
    columns = ("fingerprint", ">runs", "agent", "error", ">cost", "last", "a run")
    print_table(columns, map(_row, groups), empty="no dead letters")


@dead_letters.command(
    "show", epilog=example("tollway dead-letters show 0f3a5c7e9b1d2468", "tollway show RUN --steps   # one of its runs")
)
@click.argument("fingerprint")
@_filters("Only runs", group=False)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many at most.")
@client_command
async def show_group(session: Session, *, fingerprint: str, limit: int, **filters: str | None) -> None:
    """Show the dead runs of a group, newest first, with the step that failed and what each cost."""
    letters: list[dict[str, Any]] = []
    async for letter in session.client.dead_letter_runs(fingerprint, **given(filters)):
        letters.append(letter)
        if len(letters) == limit:
            break
    if session.as_json:
        print_json({"items": letters})
        return
    columns = ("id", "tenant", "died", ">attempts", ">cost", "failed step", "error")
    print_table(columns, map(_letter, letters), empty="no dead letters")
    console().print(f"look:    tollway show {letters[0]['run_id']} --steps", style="bright_black", markup=False)
    console().print(
        f"replay:  tollway dead-letters replay --fingerprint {fingerprint} --from failed-step", style="bright_black"
    )


@dead_letters.command(
    "replay",
    epilog=example(
        "tollway dead-letters replay --agent triage --yes",
        "tollway dead-letters replay --fingerprint 0f3a5c7e9b1d2468 --from failed-step",
        "tollway dead-letters replay 019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071 --input @ticket.json",
        'tollway dead-letters replay --code ValueError --patch \'{"currency": "EUR"}\'',
    ),
)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_filters("All dead runs")
@click.option(
    "--from",
    "start",
    type=click.Choice(["start", "failed-step"]),
    default="start",
    show_default=True,
    help="From the start, or keeping all finished steps.",
)
@click.option(
    "--input", "input_json", metavar="JSON", help='Another input, for one run; "-" reads stdin, "@file" a file.'
)
@click.option("--patch", metavar="JSON", help="What changes in each input: a JSON merge patch.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_command
async def replay_dead(
    session: Session,
    *,
    ids: tuple[str, ...],
    start: str,
    input_json: str | None,
    patch: str | None,
    yes: bool,
    **filters: str | None,
) -> int:
    """Replay dead runs as new runs: those named, or those that match."""
    wanted = _which(ids, filters)
    how: Any = {"from_failed_step": start == "failed-step"}
    if input_json is not None:
        if len(ids) != 1:
            raise click.UsageError("--input goes with one ID; --patch changes the inputs of many")
        how["input"] = parse_json(input_json, "--input")
    if patch is not None:
        how["input_patch"] = patch_of(patch)
    client = session.client
    if ids:
        answer = await client.replay_dead_letters(ids, **how)
    else:
        answer = await count_and_act(
            lambda count, seen: client.replay_dead_letters(filter=wanted, confirm=count, snapshot=seen, **how),
            "Replay {count} dead runs?",
            yes=yes,
        )
    return show_results(session, answer, "replayed")


@dead_letters.command(
    "discard",
    epilog=example(
        "tollway dead-letters discard --fingerprint 0f3a5c7e9b1d2468 --yes",
        "tollway dead-letters discard 019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071",
    ),
)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_filters("All dead runs")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_command
async def discard_dead(session: Session, *, ids: tuple[str, ...], yes: bool, **filters: str | None) -> int:
    """Take dead runs off the list without a replay: those named, or those that match. They stay dead."""
    wanted = _which(ids, filters)
    client = session.client
    if ids:
        answer = await client.discard_dead_letters(ids)
    else:
        answer = await count_and_act(
            lambda count, seen: client.discard_dead_letters(filter=wanted, confirm=count, snapshot=seen),
            "Discard {count} dead runs?",
            yes=yes,
        )
    return show_results(session, answer, "discarded")


def _which(ids: tuple[str, ...], filters: dict[str, str | None]) -> dict[str, Any]:
    wanted = given(filters)
    if bool(ids) == bool(wanted):
        raise click.UsageError(_WHICH)
    return wanted


def _row(group: dict[str, Any]) -> tuple[str, ...]:
    runs = group.get("run_ids") or [""]
    return (
        str(group.get("fingerprint", "")),
        str(group.get("count", "")),
        str(group.get("agent", "")),
        f"{group.get('code', '')}: {group.get('message', '')}"[:_ERROR_CHARS],
        dollars(int(group.get("cost_nano", 0))),
        str(group.get("last_died_at", "")),
        str(runs[0]),
    )


def _letter(letter: dict[str, Any]) -> tuple[str, ...]:
    step = letter.get("failed_step") or {}
    return (
        str(letter["run_id"]),
        str(letter.get("tenant", "")),
        str(letter.get("died_at", "")),
        str(letter.get("attempts") or ""),
        dollars(int(letter.get("cost_nano", 0))),
        f"{step['n']} {step['name']}" if step else "",
        f"{letter.get('code', '')}: {letter.get('message', '')}"[:_ERROR_CHARS],
    )
