"""What the demo shows while it runs and what it reports at the end."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo_work import TENANTS, Work
from tollway.client import RunView
from tollway.domain.money import usd
from tollway.simulator.customers import LANES

_RATE_WINDOW_S = 2.0
_PLAIN_EVERY_S = 1.0
_ERRORS_SHOWN = 3
_ERROR_CHARS = 100


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed; 0 for none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


class Progress:
    """Live progress: a table that moves in a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, work: Work) -> None:
        self._console = console
        self._work = work
        self._began = time.monotonic()
        self._ends: list[tuple[float, int]] = [(self._began, 0)]
        self._said_at = 0.0
        self._live = Live(self, console=console, refresh_per_second=8) if sys.stdout.isatty() else None

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self) -> None:
        """The work has moved on."""
        now = time.monotonic()
        self._ends.append((now, self._work.final))
        while len(self._ends) > 2 and now - self._ends[1][0] > _RATE_WINDOW_S:
            self._ends.pop(0)
        if self._live is None and now - self._said_at >= _PLAIN_EVERY_S:
            self._said_at = now
            lanes = ", ".join(f"{lane} {' / '.join(map(str, self._counts(lane)))}" for lane in LANES)
            self._console.print(
                f"{now - self._began:5.1f} s  queued / running / done: {lanes}  {self._rate():.0f} runs/s"
            )

    def _counts(self, lane: str) -> tuple[int, int, int]:
        states = Counter(run.state for run in self._work.runs.values() if run.lane == lane)
        done = sum(count for state, count in states.items() if state not in ("queued", "running", "waiting", "parked"))
        return states["queued"], states["running"], done

    def _rate(self) -> float:
        (since, before), (now, ended) = self._ends[0], self._ends[-1]
        return (ended - before) / (now - since) if now > since else 0.0

    def __rich__(self) -> RenderableType:
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for name in ("lane", "queued", "running", "done", "of"):
            table.add_column(name, justify="left" if name == "lane" else "right")
        table.add_column("", width=40)
        for lane in LANES:
            queued, running, done = self._counts(lane)
            wanted = self._work.wanted[lane]
            bar = ProgressBar(total=max(1, wanted), completed=done, width=40)
            cells = (Text(str(running), style="cyan"), Text(str(done), style="green"), str(wanted), bar)
            table.add_row(lane, str(queued), *cells)
        line = f"{time.monotonic() - self._began:5.1f} s   {self._work.final} runs done   {self._rate():.0f} runs/s"
        return Group(table, Text(line, style="bright_black"))


@dataclass(frozen=True, slots=True)
class Figures:
    """What the demo measured, from the runs as the API shows them."""

    states: Counter[str]
    span_s: float
    steps: int
    llm_calls: int
    input_tokens: int
    output_tokens: int
    cost_nano: int

    @classmethod
    def of(cls, runs: Sequence[RunView]) -> "Figures":
        """The sums over all runs; the span is from the first acceptance to the last end."""
        starts = [run.created_at for run in runs if run.created_at is not None]
        ends = [run.ended_at for run in runs if run.ended_at is not None]
        return cls(
            Counter(run.state for run in runs),
            (max(ends) - min(starts)).total_seconds() if starts and ends else 0.0,
            sum(run.usage.steps for run in runs),
            sum(run.usage.llm_calls for run in runs),
            sum(run.usage.input_tokens for run in runs),
            sum(run.usage.output_tokens for run in runs),
            sum(run.usage.cost_nano for run in runs),
        )


def report(console: Console, work: Work, totals: dict[str, Any] | None) -> bool:
    """Print the report; True when every accepted run succeeded and the money agrees."""
    runs = list(work.runs.values())
    figures = Figures.of(runs)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bright_black", justify="right")
    grid.add_column()
    states = ", ".join(f"{count} {state}" for state, count in figures.states.most_common())
    lost = work.accepted - work.final
    verdict = Text("nothing lost", style="green") if lost == 0 else Text(f"{lost} NOT ENDED", style="bold red")
    grid.add_row("runs", Text(f"{work.accepted} accepted = {work.final} ended ({states}): ").append_text(verdict))
    if work.refused:
        grid.add_row("refused", Text(", ".join(f"{n} {code}" for code, n in work.refused.items()), style="red"))
    why = Counter(f"{run.error.code}: {run.error.message}"[:_ERROR_CHARS] for run in runs if run.error is not None)
    if why:
        told = "\n".join(f"{text} ({count} runs)" for text, count in why.most_common(_ERRORS_SHOWN))
        grid.add_row("errors", Text(told, style="red"))
    span_s = figures.span_s or 1.0
    actions = f"{figures.steps / span_s * 60:,.0f} agent actions a minute"
    grid.add_row(
        "pace",
        f"{work.final / span_s:.0f} runs/s over {span_s:.1f} s, {actions}",
    )
    grid.add_row(
        "accept",
        f"p50 {percentile(work.accept_s, 0.5) * 1e3:.1f} ms, p99 {percentile(work.accept_s, 0.99) * 1e3:.1f} ms",
    )
    for lane in LANES:
        took = [_took_s(run) for run in runs if run.lane == lane and run.final]
        grid.add_row(
            lane, f"end to end p50 {percentile(took, 0.5):.2f} s, p99 {percentile(took, 0.99):.2f} s ({len(took)} runs)"
        )
    grid.add_row(
        "tokens", f"{figures.input_tokens:,} in, {figures.output_tokens:,} out, in {figures.llm_calls:,} LLM calls"
    )
    money_agrees = _add_money(grid, figures, totals)
    for tenant in TENANTS:
        own = Figures.of([run for run in runs if run.tenant == tenant])
        grid.add_row(tenant, f"{own.states.total()} runs, ${usd(own.cost_nano):.6f}")
    grid.add_row("intents", f"{_agreement(work):.0%} as people had labelled them")
    console.print(grid)
    return lost == 0 and money_agrees and not work.refused and figures.states["succeeded"] == work.accepted > 0


def _add_money(grid: Table, figures: Figures, totals: dict[str, Any] | None) -> bool:
    """The dollars, and whether they are the provider's own to the nano-dollar."""
    told = f"${usd(figures.cost_nano):.6f}"
    if totals is None:
        grid.add_row("dollars", told)
        return True
    agrees = bool(totals["cost_nano"] == figures.cost_nano)
    other = (
        "the provider's own ledger says the same"
        if agrees
        else f"the provider's own ledger says ${usd(totals['cost_nano']):.6f}"
    )
    grid.add_row("dollars", Text(f"{told}; ").append(other, style="green" if agrees else "bold red"))
    return agrees


def _took_s(run: RunView) -> float:
    return (run.ended_at - run.created_at).total_seconds() if run.ended_at and run.created_at else 0.0


def _agreement(work: Work) -> float:
    known = [run for run in work.runs.values() if run.succeeded and isinstance(run.output, dict)]
    same = sum(run.output.get("intent") == work.intents.get(run.id) for run in known)
    return same / len(known) if known else 0.0
