"""What client commands print: tables for people, JSON for programs, and the words for times, money and states."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tollway.client import RunView
from tollway.domain.money import usd

STATE_STYLES = {
    "queued": "bright_black",
    "running": "cyan",
    "waiting": "yellow",
    "parked": "yellow",
    "succeeded": "green",
    "failed": "red",
    "dead": "bold red",
    "expired": "magenta",
    "cancelled": "magenta",
    "intent": "cyan",
    "done": "green",
    "unknown": "yellow",
}


_PIPE_CHARS = 500
_ID_CHARS = 36


@cache
def console() -> Console:
    """Where people read: stdout; a pipe gets whole rows, whatever its width."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_CHARS)


def print_json(value: Any) -> None:
    """`value` on stdout as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_json_line(value: Any) -> None:
    """`value` on stdout as one line of JSON, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, empty: str) -> None:
    """Rows under their columns, or the sentence `empty`; a column whose name begins with `>` stands to the right."""
    table = new_table(*columns)
    for row in rows:
        table.add_row(*(plain(cell) if isinstance(cell, str) else cell for cell in row))
    if table.row_count == 0:
        console().print(empty, style="bright_black")
    else:
        console().print(table)


def new_table(*columns: str) -> Table:
    """An empty table without lines; in a narrow terminal every column but the first and the last may lose its end."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        name = column.lstrip(">")
        width = _ID_CHARS if name == "id" else None
        right = column.startswith(">")
        table.add_column(name, justify="right" if right else "left", no_wrap=i < len(columns) - 1, min_width=width)
    return table


def plain(text: str) -> Text:
    """Text that is neither markup nor able to steer the terminal."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text))


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def pretty(value: Any) -> Text:
    """JSON as people read it."""
    return plain(json.dumps(value, indent=2, ensure_ascii=False))


def span(seconds: float | None) -> str:
    """A duration in its two largest units at most: `0.31 s`, `42 s`, `3 m 05 s`, `2 h 10 m`, `4 d`."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(seconds, 0):.2f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours < 48 else f"{hours // 24} d"


def age(when: datetime | None) -> str:
    """How long ago `when` was, in its largest unit."""
    if when is None:
        return ""
    seconds = int(max(0.0, (datetime.now(UTC) - when).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds from start to end, or to now; None before the start."""
    return None if start is None else ((end or datetime.now(UTC)) - start).total_seconds()


def dollars(nano: int) -> str:
    """Money as short as it stays true to four digits: `$1.24`, `$0.0003412`."""
    amount = usd(nano)
    if nano == 0:
        return "$0"
    if abs(amount) >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.9f}".rstrip("0") if abs(amount) < 0.0001 else f"${amount:.6f}".rstrip("0")


def _clock(moment: datetime) -> str:
    """A moment in UTC, with its day where that is another."""
    return f"{moment:%H:%M:%S}" if moment.date() == datetime.now(UTC).date() else f"{moment:%Y-%m-%d %H:%M}"


def blocked_words(run: RunView) -> str:
    """Why a run does not start, and until when."""
    if run.blocked is None:
        return ""
    key = f" {run.blocked.key}" if run.blocked.key else ""
    until = f" until {_clock(run.blocked.until)}" if run.blocked.until else ""
    return f"{run.blocked.reason}{key}{until}"
