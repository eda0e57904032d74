"""What each model let pass and refused, second by second, for plots: the last hour of the 64 models seen first."""

from collections import deque
from typing import Any

_SECONDS_KEPT = 3600
_MODELS_MAX = 64
_OTHERS = "(others)"


class Meter:
    """Counts calls by model and second. Time is an argument (monotonic seconds); `since` is second 0."""

    def __init__(self, since: float) -> None:
        self._since = since
        self._rows: dict[str, deque[list[int]]] = {}

    def count(self, model: str, tokens: int, *, refused: bool, now: float) -> None:
        """A call was let pass, taking `tokens` of the limits, or refused."""
        rows = self._rows.get(model)
        if rows is None:
            name = model if len(self._rows) < _MODELS_MAX else _OTHERS
            rows = self._rows.setdefault(name, deque(maxlen=_SECONDS_KEPT))
        second = int(now - self._since)
        if not rows or rows[-1][0] != second:
            rows.append([second, 0, 0, 0])
        row = rows[-1]
        if refused:
            row[3] += 1
        else:
            row[1] += 1
            row[2] += tokens

    def shown(self, after: int, now: float) -> dict[str, Any]:
        """The rows of seconds above `after`, each second, calls let pass, their tokens, and calls refused."""
        return {
            "now_s": round(now - self._since, 3),
            "columns": ["second", "requests", "tokens", "refused"],
            "models": {name: [row for row in rows if row[0] > after] for name, rows in self._rows.items()},
        }
