"""How one run looks in a terminal: its head, its steps on a time line, its result."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from tollway.cli._output import (
    age,
    between,
    blocked_words,
    console,
    dollars,
    new_table,
    plain,
    pretty,
    span,
    state_text,
)
from tollway.client import RunEvent, RunView, StepView
from tollway.domain.money import nano

_BAR_CHARS = 32
_STEP_COLUMNS = ("#", "step", "kind", "state", "attempt", "route", "calls", "tokens", "cost", "took", "error")


def print_head(run: RunView) -> None:
    """What a run is, where it stands and what it cost."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bright_black", justify="right")
    grid.add_column()
    grid.add_row("run", Text(run.id, style="bold"))
    grid.add_row("agent", plain(f"{run.agent}  (version {run.version})" if run.version else run.agent))
    state = state_text(run.state)
    if run.blocked is not None:
        state.append(f"  {plain(blocked_words(run))}", style="yellow")
    grid.add_row("state", state)
    grid.add_row("tenant · lane", plain(f"{run.tenant} · {run.lane or '?'}"))
    if run.created_at is not None:
        grid.add_row("created", f"{run.created_at:%Y-%m-%d %H:%M:%S} UTC, {age(run.created_at)} ago")
    if run.started_at is not None:
        waited = span(between(run.created_at, run.started_at))
        word = "took" if run.final else "running for"
        grid.add_row("time", f"waited {waited}, {word} {span(between(run.started_at, run.ended_at))}")
    elif not run.final and run.predicted_start_at is not None:
        grid.add_row("starts", f"about {run.predicted_start_at:%H:%M:%S} UTC")
    grid.add_row("attempt", str(run.attempt))
    usage = run.usage
    tokens = f"{usage.input_tokens} tokens in, {usage.output_tokens} out"
    grid.add_row("used", f"{usage.steps} steps, {usage.llm_calls} LLM calls, {tokens}, {dollars(usage.cost_nano)}")
    if run.degraded:
        grid.add_row("degraded", plain(", ".join(str(rung) for rung in run.degraded)))
    if run.metadata:
        grid.add_row("metadata", plain(", ".join(f"{key}={value}" for key, value in run.metadata.items())))
    if run.replay_of:
        grid.add_row("replay of", run.replay_of)
    if run.trace_id:
        grid.add_row("trace", plain(run.trace_id))
    console().print(grid)


def print_result(run: RunView) -> None:
    """How a run ended: its output or its error, and one line of figures."""
    line = state_text(run.state)
    line.append(f"  {run.id}", style="bright_black")
    took = span(between(run.created_at, run.ended_at))
    line.append(f"  {took}  {dollars(run.usage.cost_nano)}", style="bright_black")
    console().print(line)
    print_outcome(run)


def print_outcome(run: RunView) -> None:
    """The run's error, or else its output if it has ended."""
    if run.error is not None:
        console().print(Text(f"{run.error.code}: ", style="red") + plain(run.error.message))
    elif run.succeeded:
        console().print(pretty(run.output))
    else:
        console().print(Text(f"none: the run was {run.state}", style="bright_black"))


def print_timeline(run: RunView, steps: Sequence[StepView]) -> None:
    """Each step as a bar, from the run's creation to its end or now."""
    start = run.created_at or (steps[0].started_at if steps else None)
    whole = between(start, run.ended_at) or 0.0
    table = new_table("#", "step", "kind", "state", "time line", "took")
    for step in steps:
        bar = Text(_bar(start, whole, step), style=state_text(step.state).style)
        took = span(between(step.started_at, step.ended_at))
        table.add_row(str(step.n), plain(step.name), step.kind, state_text(step.state), bar, took)
    console().print(table)


def print_steps(steps: Sequence[StepView]) -> None:
    """What each step did and cost."""
    table = new_table(*_STEP_COLUMNS)
    for step in steps:
        tokens = "" if step.input_tokens is None else f"{step.input_tokens}/{step.output_tokens or 0}"
        route = f"{step.route or ''}{' (cached)' if step.cached else ''}"
        error = step.error.get("message") or step.error.get("code") if isinstance(step.error, dict) else step.error
        table.add_row(
            str(step.n),
            plain(step.name),
            step.kind,
            state_text(step.state),
            str(step.attempt or ""),
            plain(route),
            str(step.calls if isinstance(step.calls, int) else len(step.calls or ())),
            tokens,
            _cost(step),
            span(between(step.started_at, step.ended_at)),
            plain(str(error or "")),
        )
    console().print(table)


def _cost(step: StepView) -> str:
    """What the step cost, or saved."""
    if step.cached and step.saved_nano:
        return f"saved {dollars(step.saved_nano)}"
    return dollars(nano(step.cost_usd)) if step.cost_usd else ""


def print_events(run: RunView, events: Sequence[RunEvent]) -> None:
    """Each event with its distance from the run's creation and its actor."""
    for event in events:
        console().print(event_line(event, run.created_at))


def event_line(event: RunEvent, start: datetime | None) -> Text:
    """One event as one line."""
    since = between(start, event.at) if event.at is not None else None
    line = Text(f"{'' if since is None else f'+{max(since, 0.0):.3f} s':>12}  ", style="bright_black")
    line.append(f"{event.type:<13}", style=state_text(event.type.removeprefix("step.")).style)
    actor = event.actor or {}
    if actor.get("kind"):
        line.append_text(plain(f" {actor['kind']} {actor.get('id') or ''}".rstrip()))
    if isinstance(event.data, dict) and event.data:
        of_step = event.type.startswith("step.")
        shown = (
            (key, value)
            for key, value in event.data.items()
            if value is not None and not (of_step and _dull(key, value))
        )
        told = ", ".join(f"{key}={value}" for key, value in shown)
        line.append_text(Text("  ") + plain(told))
    elif event.data:
        line.append_text(plain(f"  {event.data}"))
    return line


def _dull(key: str, value: Any) -> bool:
    """Whether a step's event is as well read without it: `--json` shows all."""
    return key in ("path", "call_id") or value == 0


def _bar(start: datetime | None, whole_s: float, step: StepView) -> str:
    """The step's share of the run's time: `··███·····`."""
    if start is None or step.started_at is None or whole_s <= 0:
        return ""
    begin = between(start, step.started_at) or 0.0
    length = between(step.started_at, step.ended_at) or 0.0
    first = min(_BAR_CHARS - 1, max(0, int(begin / whole_s * _BAR_CHARS)))
    chars = min(_BAR_CHARS - first, max(1, round(length / whole_s * _BAR_CHARS)))
    return "·" * first + "█" * chars + "·" * (_BAR_CHARS - first - chars)
