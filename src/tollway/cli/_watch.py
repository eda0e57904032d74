"""The live view of one run: steps and tokens as they come, then the result. Leaving it leaves the run going."""

import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tollway.cli._command import Session
from tollway.cli._errors import DONE, FAILED
from tollway.cli._output import console, plain, print_json_line, span, state_text
from tollway.cli._run_view import event_line, print_result
from tollway.client import RunEvent, RunView

_STEPS_SHOWN_MAX = 20
_TEXT_SHOWN_CHARS = 1_200
_STATE_AFTER = {
    "accepted": "queued",
    "claimed": "running",
    "waiting": "waiting",
    "parked": "parked",
    "resumed": "queued",
    "handed_back": "queued",
    "retried": "queued",
}


@dataclass(slots=True)
class _Step:
    name: str
    kind: str
    state: str = "intent"
    began: float = field(default_factory=time.monotonic)
    took_s: float | None = None
    route: str = ""


class WatchView:
    """The fold of a run's events, and how it looks."""

    def __init__(self, run: RunView) -> None:
        self._run = run
        self._began = time.monotonic()
        self._steps: dict[str, _Step] = {}
        self._spinner = Spinner("dots")
        self.state = run.state
        self.note = ""
        self.text = ""

    def take(self, event: RunEvent) -> None:
        """Fold in the next event."""
        data = event.data if isinstance(event.data, dict) else {}
        if event.type == "token":
            self.text = (self.text + token_text(event))[-_TEXT_SHOWN_CHARS:]
        elif event.type.startswith("step."):
            self._take_step(event.type.removeprefix("step."), data)
        elif event.type == "progress":
            self.note = ", ".join(f"{k}: {v}" for k, v in data.items()) if data else str(event.data)
        elif event.type == "retried":
            self.state = "queued"
            self.note = f"attempt again ({data.get('reason', 'error')})"
        else:
            self.state = event.type if event.final else _STATE_AFTER.get(event.type, self.state)

    def _take_step(self, state: str, data: dict[str, Any]) -> None:
        key = str(data.get("n", len(self._steps)))
        step = self._steps.get(key)
        if step is None or state == "intent":
            step = self._steps[key] = _Step(str(data.get("name") or ""), str(data.get("kind") or ""))
            self.text = ""
        if state != "intent":
            step.state = state
            step.took_s = time.monotonic() - step.began
            step.route = str(data.get("route") or "")

    def __rich__(self) -> RenderableType:
        head = Text.assemble(("● ", state_text(self.state).style), (self._run.agent, "bold"), f"  {self._run.id}  ")
        head.append_text(plain(f"{self._run.tenant} · {self._run.lane or ''}  "))
        head.append_text(state_text(self.state))
        head.append(f"  {span(time.monotonic() - self._began)}", style="bright_black")
        parts: list[RenderableType] = [head]
        if self._steps:
            parts.append(self._table())
        if self.note:
            parts.append(Text("  ") + plain(self.note))
        if self.text:
            parts.append(plain(self.text))
        return Group(*parts)

    def _table(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        for key, step in list(self._steps.items())[-_STEPS_SHOWN_MAX:]:
            mark: RenderableType = self._spinner
            if step.state != "intent":
                mark = Text("✓" if step.state == "done" else "✗", style=state_text(step.state).style)
            took = step.took_s if step.took_s is not None else time.monotonic() - step.began
            grid.add_row(" ", mark, key, plain(step.name), step.kind, plain(step.route), span(took))
        return grid


def token_text(event: RunEvent) -> str:
    """The text of a `token` event."""
    data = event.data
    return str(data.get("text", "")) if isinstance(data, dict) else str(data or "")


async def watch_run(session: Session, run: RunView) -> int:
    """Show the run until it ends; DONE if it succeeded, else FAILED."""
    session.interrupted = f"no longer watching; run {run.id} goes on: tollway show {run.id}"
    async with aclosing(session.client.events(run.id)) as events:
        if session.as_json:
            async for event in events:
                print_json_line(event.document)
        elif sys.stdout.isatty():
            await _live(run, events)
        else:
            await _lines(run, events)
    ended = await session.client.get(run.id)
    if session.as_json:
        print_json_line(ended.document)
    else:
        print_result(ended)
    return DONE if ended.succeeded else FAILED


async def _live(run: RunView, events: AsyncIterator[RunEvent]) -> None:
    view = WatchView(run)
    with Live(view, console=console(), refresh_per_second=12, vertical_overflow="visible"):
        async for event in events:
            view.take(event)
        view.text = ""


async def _lines(run: RunView, events: AsyncIterator[RunEvent]) -> None:
    """One line an event; tokens run on as they come."""
    within_text = False
    async for event in events:
        if event.type == "token":
            sys.stdout.write(plain(token_text(event)).plain)
            sys.stdout.flush()
            within_text = True
            continue
        if within_text:
            sys.stdout.write("\n")
            within_text = False
        console().print(event_line(event, run.created_at))
