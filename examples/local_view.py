"""What `make demo-local` reports: a row for each answer, and the sums beside what the model's server counted itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tollway.domain.money import usd

_TEXT_CHARS = 30


@dataclass(frozen=True, slots=True)
class Row:
    """One answer. `tokens` are input, those of it the server still knew, output; `topic` is what people had said.

    `cost_nano` is None where nobody told it.
    """

    what: str
    route: str
    tokens: Sequence[int]
    took_s: float
    cost_nano: int | None
    found: str = ""
    topic: str | None = None
    good: bool = True

    @property
    def asked(self) -> bool:
        """Whether the model was asked, and not a cache."""
        return self.route != "cache"


@dataclass
class Account:
    """Every answer of the demo."""

    rows: list[Row] = field(default_factory=list)
    shown: int = 0

    def add(self, row: Row) -> None:
        """One more."""
        self.rows.append(row)

    def show(self, console: Console) -> None:
        """The rows that were not shown yet, as a table."""
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for name in ("", "answer", "route"):
            table.add_column(name, no_wrap=True)
        for name in ("in", "known", "out", "s", "$"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows[self.shown :]:
            style = "green" if row.good and row.topic in (None, row.found) else "yellow" if row.good else "bold red"
            what = row.what if len(row.what) <= _TEXT_CHARS else row.what[: _TEXT_CHARS - 1] + "…"
            figures = [str(count) for count in row.tokens]
            table.add_row(
                Text(what),
                Text(row.found, style=style),
                row.route,
                *figures,
                f"{row.took_s:.1f}",
                _dollars(row.cost_nano),
            )
        self.shown = len(self.rows)
        console.print(table)

    def report(self, console: Console, counted: Mapping[str, int]) -> bool:
        """The rest of the rows, and the sums; whether all went well and the two counts of tokens agree."""
        self.show(console)
        asked = [row for row in self.rows if row.asked]
        ours = {name: sum(row.tokens[i] for row in asked) for i, name in enumerate(("input", "cached", "output"))}
        agrees = ours == dict(counted)
        sorted_rows = [row for row in asked if row.topic is not None]
        right = sum(row.found == row.topic for row in sorted_rows)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bright_black", justify="right")
        grid.add_column()
        grid.add_row("calls", f"{len(asked)}, and {len(self.rows) - len(asked)} answered from the cache")
        grid.add_row("tokens", Text(_told(ours)).append(*_verdict(agrees, counted)))
        grid.add_row("cost", f"${_dollars(sum(row.cost_nano or 0 for row in self.rows))}, as this model is priced")
        grid.add_row("topics", f"{right} of {len(sorted_rows)} as people had sorted them")
        console.print()
        console.print(grid)
        console.print()
        return agrees and all(row.good for row in self.rows)


def _told(counts: Mapping[str, int]) -> str:
    return f"{counts['input']:,} in ({counts['cached']:,} known), {counts['output']:,} out; "


def _verdict(agrees: bool, counted: Mapping[str, int]) -> tuple[str, str]:
    if agrees:
        return "the server itself counted the same", "green"
    return f"the server itself counted {_told(counted)}".rstrip("; "), "bold red"


def _dollars(nano: int | None) -> str:
    return "" if nano is None else f"{usd(nano):.6f}" if nano else "0"
