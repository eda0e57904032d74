"""`tollway runs`: the list of runs, filtered."""

from typing import Any

import click

from tollway.cli._command import Session, client_command, example, pairs
from tollway.cli._output import age, between, blocked_words, dollars, print_json, print_table, span, state_text
from tollway.client import RunView
from tollway.client.options import RunFilter
from tollway.client.views import as_run
from tollway.domain.words import RunState

_PAGE_MAX = 200
_COLUMNS = ("id", "agent", "tenant", "lane", "state", ">age", ">duration", ">cost", "why")


@click.command(epilog=example("tollway runs --state dead --agent triage", "tollway runs --metadata source=mail --json"))
@click.option("--state", type=click.Choice([state.value for state in RunState]), help="Only runs in this state.")
@click.option("--agent", help="Only runs of this agent.")
@click.option("--lane", help="Only runs of this lane.")
@click.option("--tenant", help="Only runs of this tenant.")
@click.option("--created-after", metavar="TIME", help="RFC 3339, as 2026-01-31T12:00:00Z.")
@click.option("--created-before", metavar="TIME", help="RFC 3339, as 2026-01-31T12:00:00Z.")
@click.option("--metadata", multiple=True, metavar="K=V", help="Only runs with this metadata; may be repeated.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@click.option("--cursor", help="Go on where an earlier list (its `next`) ended.")
@client_command
async def runs(
    session: Session, *, limit: int, cursor: str | None, metadata: tuple[str, ...], **filters: str | None
) -> None:
    """List runs, newest first."""
    wanted = RunFilter(**{name: value for name, value in filters.items() if value is not None})  # type: ignore[typeddict-item]
    if metadata:
        wanted["metadata"] = pairs(metadata, "--metadata")
    items: list[dict[str, Any]] = []
    while True:
        page = await session.client.page(limit=min(limit - len(items), _PAGE_MAX), cursor=cursor, **wanted)
        items += page.items
        cursor = page.next
        if cursor is None or not page.items or len(items) >= limit:
            break
    if session.as_json:
        print_json({"items": items, "next": cursor})
        return
    print_table(_COLUMNS, (_row(as_run(item)) for item in items), empty="no runs match")
    if cursor is not None:
        click.echo(f"there are more: --limit {limit * 2}, or --cursor {cursor}", err=True)


def _row(run: RunView) -> tuple[Any, ...]:
    why = blocked_words(run) or (run.error.code if run.error else "")
    return (
        run.id,
        run.agent,
        run.tenant,
        run.lane or "",
        state_text(run.state),
        age(run.created_at),
        span(between(run.started_at, run.ended_at)),
        dollars(run.usage.cost_nano),
        why,
    )
