"""What vendors say of their limits: in the headers of every answer, and by what they count up front.

Pure: the time is an argument. Whatever cannot be read is untold, never an error.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Literal

import msgspec

Counts = Literal["max_tokens", "actual", "input"]

# What a call takes from the limits before its length is known. `max_tokens`: input and all of max_tokens, never given
# back. `actual`: the input, and max_tokens of output put right to what was made once the answer ends. `input`: that
# alone.
COUNTS: dict[str, Counts] = {"openai": "max_tokens", "anthropic": "actual", "gemini": "input"}

_DURATION = re.compile(rb"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS_S = (86_400.0, 3600.0, 60.0, 1.0, 0.001)
_DAY_S = 86_400.0


class Dimension(msgspec.Struct, frozen=True, gc=False):
    """One limit as the vendor sees it: units a minute, units left, seconds until it is whole again; None is untold."""

    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None


class Told(msgspec.Struct, frozen=True, gc=False):
    """The limits an answer told; `tokens` is of input and output together. None where nothing is told."""

    requests: Dimension | None = None
    tokens: Dimension | None = None
    input: Dimension | None = None
    output: Dimension | None = None


NOTHING = Told()


def counts_of(kind: str) -> Counts:
    """How a kind of vendor counts; a stranger is taken at its worst."""
    return COUNTS.get(kind, "max_tokens")


def limits_told(kind: str, fields: Mapping[bytes, bytes], now_s: float) -> Told:
    """The limits in an answer's headers, their names in small letters; `now_s` is epoch seconds."""
    if kind == "openai":
        if b"x-ratelimit-remaining-requests" not in fields and b"x-ratelimit-remaining-tokens" not in fields:
            return NOTHING
        return Told(_openai(fields, b"requests"), _openai(fields, b"tokens"))
    if kind == "anthropic":
        names = (b"requests", b"tokens", b"input-tokens", b"output-tokens")
        return Told(*(_anthropic(fields, name, now_s) for name in names))
    return NOTHING


def _openai(fields: Mapping[bytes, bytes], name: bytes) -> Dimension | None:
    """Azure may send a limit of -1 or 0: it does not know it, and the rest says nothing either."""
    limit = _count(fields.get(b"x-ratelimit-limit-" + name))
    if limit is not None and limit <= 0:
        return None
    remaining = _count(fields.get(b"x-ratelimit-remaining-" + name))
    if remaining is not None and remaining < 0:
        remaining = None
    return _dimension(limit, remaining, _told(fields.get(b"x-ratelimit-reset-" + name), _duration_s))


def _anthropic(fields: Mapping[bytes, bytes], name: bytes, now_s: float) -> Dimension | None:
    before = b"anthropic-ratelimit-" + name
    remaining = fields.get(before + b"-remaining")
    if remaining is None:
        return None
    reset_s = _told(fields.get(before + b"-reset"), lambda text: _until_s(text, now_s))
    return _dimension(_count(fields.get(before + b"-limit")), _count(remaining), reset_s)


def _dimension(limit: int | None, remaining: int | None, reset_s: float | None) -> Dimension | None:
    return None if limit is remaining is reset_s is None else Dimension(limit, remaining, reset_s)


def _told(text: bytes | None, read: Callable[[bytes], float | None]) -> float | None:
    value = read(text.strip()) if text else None
    return value if value is not None and 0 <= value <= _DAY_S else None


def _count(text: bytes | None) -> int | None:
    try:
        return int(text) if text is not None and len(text) < 16 else None
    except ValueError:
        return None


def _duration_s(text: bytes) -> float | None:
    """Seconds of "12ms", "1.5s", "1m2s", "2h"; a bare number is seconds."""
    match = _DURATION.fullmatch(text)
    if match is None or match.group() == b"":
        try:
            return float(text)
        except ValueError:
            return None
    return sum(float(part) * unit_s for part, unit_s in zip(match.groups(), _UNITS_S, strict=True) if part)


def _until_s(text: bytes, now_s: float) -> float | None:
    try:
        return max(0.0, datetime.fromisoformat(text.decode("ascii")).timestamp() - now_s)
    except (ValueError, OverflowError):
        return None
