"""The command line. `main` knows its commands by name only: a command's module is imported when it is called."""

import contextlib
import importlib
import logging
import os
import sys
from typing import Any, NamedTuple

import click


class _Entry(NamedTuple):
    section: str
    target: str
    help: str


_RUN, _USE, _GOVERN, _CHECK = "Run the system", "Work with runs", "Tenants, keys, tiers", "Try and check"

COMMANDS = {
    "up": _Entry(_RUN, "tollway.cli.up:up", "Everything on this machine, in the foreground."),
    "api": _Entry(_RUN, "tollway.cli.api:api", "One API process."),
    "worker": _Entry(_RUN, "tollway.cli.worker:worker", "One worker process."),
    "keeper": _Entry(_RUN, "tollway.cli.keeper:keeper", "The process that reaps, times and tidies."),
    "isolate": _Entry(_RUN, "tollway.cli.isolate:isolate", ""),
    "migrate": _Entry(_RUN, "tollway.cli.migrate:migrate", "Bring the database to this version's schema."),
    "submit": _Entry(_USE, "tollway.cli.submit:submit", "Submit a run of an agent."),
    "runs": _Entry(_USE, "tollway.cli.runs:runs", "List runs, newest first."),
    "show": _Entry(_USE, "tollway.cli.show:show", "Show one run with its steps."),
    "cancel": _Entry(_USE, "tollway.cli.cancel:cancel", "Cancel a run, or all that match."),
    "replay": _Entry(_USE, "tollway.cli.replay:replay", "Run an ended run again, as a new run."),
    "dead-letters": _Entry(_USE, "tollway.cli.dead_letters:dead_letters", "List, replay and discard dead runs."),
    "tenant": _Entry(_GOVERN, "tollway.cli.tenant:tenant", "Create tenants, set their limits, list them."),
    "key": _Entry(_GOVERN, "tollway.cli.key:key", "Create, list and revoke API keys."),
    "budget": _Entry(_GOVERN, "tollway.cli.budget:budget", "Bound what tenants spend, and see what is left."),
    "routes": _Entry(_GOVERN, "tollway.cli.routes:routes", "What each LLM route is used for, live."),
    "prices": _Entry(_GOVERN, "tollway.cli.prices:prices", "What each LLM route's calls cost, and why."),
    "scaling": _Entry(_GOVERN, "tollway.cli.scaling:scaling", "Backlog and wanted workers by lane, live."),
    "alerts": _Entry(_GOVERN, "tollway.cli.alerts:alerts", "What was told of budgets, spending and routes."),
    "usage": _Entry(_GOVERN, "tollway.cli.usage:usage", "What was called, what it cost, what was saved."),
    "shifts": _Entry(_GOVERN, "tollway.cli.shifts:shifts", "Serve calls of one tier by another, at run time."),
    "provider-sim": _Entry(_CHECK, "tollway.cli.provider_sim:provider_sim", "A simulated LLM provider."),
    "bench": _Entry(_CHECK, "tollway.cli.bench:bench", "Measure this machine."),
    "doctor": _Entry(_CHECK, "tollway.cli.doctor:doctor", "Find what is wrong with a set-up, and the remedy."),
}


class LazyGroup(click.Group):
    """A group whose commands stand in a table; `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called `cmd_name`, imported now."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by section, with the help of the table."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in COMMANDS.items():
            if not entry.help:  # for Tollway's own use
                continue
            sections.setdefault(entry.section, []).append((name, entry.help))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Tollway's own errors become a sentence and an exit code."""
        from tollway.domain.errors import TollwayError  # noqa: PLC0415 - `--help` does without

        try:
            return super().invoke(ctx)
        except TollwayError as error:
            from tollway.cli._errors import exit_code, show_error  # noqa: PLC0415 - as above

            show_error(error, as_json=False)
            ctx.exit(exit_code(error))


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version  # noqa: PLC0415 - slow, and rarely asked for

    click.echo(f"tollway {version('tollway')} (Python {sys.version.split()[0]})")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=(
        "\b\nExample:\n  tollway up --agents examples.agents\n"
        '  tollway submit triage \'{"text": "My card has not arrived"}\' --watch\n\n'
        "\b\nTOLLWAY_URL and TOLLWAY_API_KEY point the client commands.\n"
        "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 cannot reach the server."
    ),
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def main() -> None:
    """Tollway runs AI agents the way a payment system runs transactions."""


def entry() -> None:
    """`main`, and an end without the interpreter's own.

    Threads of the HTTP client may still be on their way out of a callback; one that finds the interpreter going away
    aborts the process. So everything is flushed, and the process ends here.
    """
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code or 0)
