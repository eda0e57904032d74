"""Lines over time as a small SVG: no more than a page of documentation needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil

WIDTH, HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 52, 40
_STYLE = 'font-family="sans-serif" font-size="12" fill="#374151"'
_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")
_X_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300)
_X_TICKS_MAX = 12
_Y_STEPS = (20, 50, 100, 200, 500, 1000)
_Y_TICKS_MAX = 8


@dataclass(frozen=True)
class Line:
    """One line: its name, and points of seconds and shares (1.0 is 100 %)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """Something that happened: at which second, in a few words; until which second, if it lasted."""

    at_s: float
    text: str
    until_s: float | None = None


def svg(title: str, lines: Sequence[Line], marks: Sequence[Mark] = (), share_max: float = 1.2) -> str:
    """Shares over seconds, with a legend and marks."""
    last_s = max((point[0] for line in lines for point in line.points), default=1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {_STYLE}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 18, title, weight="bold"),
        *(_mark(mark, last_s) for mark in marks if mark.until_s is not None),
        *_grid(last_s, share_max),
        *(_mark(mark, last_s) for mark in marks if mark.until_s is None),
        *(_line(line, number, last_s, share_max) for number, line in enumerate(lines)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(second: float, last_s: float) -> float:
    return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * second / last_s, 1)


def _y(share: float, share_max: float) -> float:
    height = HEIGHT - _TOP - _BOTTOM
    return round(_TOP + height * (1 - min(share, share_max) / share_max), 1)


def _grid(last_s: float, share_max: float) -> list[str]:
    parts = []
    percents = next((each for each in _Y_STEPS if 100 * share_max / each <= _Y_TICKS_MAX), _Y_STEPS[-1])
    for percent in range(0, int(100 * share_max + 1e-6) + 1, percents):
        y = _y(percent / 100, share_max)
        colour = "#9ca3af" if percent in (0, 100) else "#e5e7eb"
        parts.append(f'<path d="M{_LEFT} {y}H{WIDTH - _RIGHT}" stroke="{colour}"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{percent} %", anchor="end"))
    step = next((each for each in _X_STEPS if last_s / each <= _X_TICKS_MAX), ceil(last_s / _X_TICKS_MAX))
    for second in range(0, int(last_s) + 1, step):
        parts.append(_text(_x(second, last_s), HEIGHT - _BOTTOM + 16, str(second), anchor="middle"))
    parts.append(_text(WIDTH - _RIGHT, HEIGHT - 6, "seconds", anchor="end"))
    return parts


def _line(line: Line, number: int, last_s: float, share_max: float) -> str:
    colour = _COLOURS[number % len(_COLOURS)]
    points = " ".join(f"{_x(second, last_s)},{_y(share, share_max)}" for second, share in line.points)
    x = _LEFT + number * 200
    return (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>\n'
        f'<path d="M{x} 34h18" stroke="{colour}" stroke-width="3"/>\n' + _text(x + 24, 38, line.name)
    )


def _mark(mark: Mark, last_s: float) -> str:
    x = _x(mark.at_s, last_s)
    if mark.until_s is not None:
        width = round(_x(min(mark.until_s, last_s), last_s) - x, 1)
        span = f'<rect x="{x}" y="{_TOP}" width="{width}" height="{HEIGHT - _TOP - _BOTTOM}" fill="#fee2e2"/>'
        return span + "\n" + _text(x + 4, _TOP + 14, mark.text)
    line = f'<path d="M{x} {_TOP}V{HEIGHT - _BOTTOM}" stroke="#dc2626" stroke-dasharray="4 3"/>'
    return line + "\n" + _text(x - 4, HEIGHT - _BOTTOM - 6, mark.text, anchor="end")


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
