"""Structured logs on the standard library's logging: lines for people, or JSON lines for machines.

Each line carries role and pid. What looks like a secret is hidden, every text is bounded, and one event cannot flood:
beyond a burst in a window its lines are counted and told with the next one. Callers log ids and counts, never the
content of runs.
"""

import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec

_TEXT_MAX = 500
_TRACE_MAX = 4000
_FIELDS_MAX = 24
_BURST = 20
_WINDOW_S = 10.0
_EVENTS_MAX = 512

_SECRET_NAME = re.compile(r"(^|_)(key|token$|secret|password|authorization|credential)($|_(?!id|env|name))", re.I)
_SECRET_TEXT = re.compile(
    r"\btw_[!-~]{8,}|\bsk-[A-Za-z0-9_-]{8,}|\bwhsec_[A-Za-z0-9+/=]{8,}|(?<=[Bb]earer )[!-~]{8,}|(?<=://)[^/\s@]*(?=@)"
)
_HIDDEN = "(hidden)"
_LEVEL_MARKS = {"DEBUG": "debug", "INFO": "info ", "WARNING": "warn ", "ERROR": "error", "CRITICAL": "fatal"}


class Log:
    """A logger of events with fields: `log.warning("claim.slow", lane=lane, took_s=0.8)`."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, /, **fields: object) -> None:
        """For whoever hunts a fault; off unless asked for."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Something an operator may want to know happened."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Something that was mended or put up with, and may need a person later."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Something that failed."""
        self._write(logging.ERROR, event, fields)

    def failure(self, event: str, error: BaseException, /, **fields: object) -> None:
        """Something that failed with an exception nobody expected; its traceback is logged, shortened."""
        if self._logger.isEnabledFor(logging.ERROR):
            told = (type(error), error, error.__traceback__)
            self._logger.error(event, extra={"fields": fields}, exc_info=told)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={"fields": fields})


def get_logger(name: str) -> Log:
    """The log of a module; `name` is its `__name__`."""
    return Log(logging.getLogger(name))


def configure(
    role: str,
    form: Literal["console", "json"] = "console",
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """Send this process's logs to `stream` (standard error), in `form`, from `level` up.

    A second call replaces the first. Other libraries are heard from `warning` up.
    """
    handler = _Handler(stream or sys.stderr)
    handler.addFilter(_Burst())
    handler.setFormatter(_Json(role) if form == "json" else _Console(role))
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, _Handler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("tollway").setLevel(level.upper())


class _Handler(logging.StreamHandler[TextIO]):
    """A handler whose own failure (a closed pipe, say) never reaches the work that logged."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line: there is nowhere left to say so."""


class _Burst(logging.Filter):
    """Passes at most `_BURST` lines of one event in a window; the next line passed tells how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        key = (record.name, str(record.msg))
        window = self._seen.get(key)
        if window is None:
            if len(self._seen) >= _EVENTS_MAX:
                self._seen.clear()
            window = self._seen[key] = [now, 0.0]
        if now - window[0] >= _WINDOW_S:
            left_out = int(window[1]) - _BURST
            window[:] = [now, 0.0]
            if left_out > 0:
                record.left_out = left_out
        window[1] += 1
        return window[1] <= _BURST


class _Json(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role
        self._encode = msgspec.json.Encoder(enc_hook=str).encode

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": _instant(record),
            "level": record.levelname.lower(),
            "role": self._role,
            "pid": os.getpid(),
            "logger": record.name,
            "event": _clean(record.getMessage()),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        if trace := _trace(record):
            line["trace"] = trace
        return self._encode(line).decode()


class _Console(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        mark = _LEVEL_MARKS.get(record.levelname, record.levelname)
        head = f"{_instant(record)[11:23]} {mark} {self._role}[{os.getpid()}] {_clean(record.getMessage())}"
        line = head + "".join(f" {name}={_one_line(value)}" for name, value in _fields(record).items())
        trace = _trace(record)
        return f"{line}\n{trace}" if trace else line


def _instant(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    given = getattr(record, "fields", None)
    fields: dict[str, Any] = {}
    if isinstance(given, Mapping):
        for name, value in list(given.items())[:_FIELDS_MAX]:
            fields[str(name)] = _HIDDEN if _SECRET_NAME.search(str(name)) else _bounded(value)
    if left_out := getattr(record, "left_out", 0):
        fields["left_out"] = left_out
    return fields


def _bounded(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else _clean(str(value))


def _clean(text: str, length_max: int = _TEXT_MAX) -> str:
    text = _SECRET_TEXT.sub(_HIDDEN, text)
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


def _one_line(value: object) -> str:
    text = str(value)
    return repr(text) if not text or not text.isprintable() or " " in text else text


def _trace(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    text = "".join(traceback.format_exception(record.exc_info[1], limit=-12)).rstrip()
    text = _SECRET_TEXT.sub(_HIDDEN, text)
    return text if len(text) <= _TRACE_MAX else "…" + text[-_TRACE_MAX + 1 :]
