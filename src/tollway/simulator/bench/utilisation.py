"""How much of a limit was used, second by second, from the provider's own meter. Pure; times are seconds."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_REQUESTS, _TOKENS = 1, 2
_STEP_S = 0.05


@dataclass(frozen=True)
class Limit:
    """The limit that binds a model: so many requests, or tokens, a minute."""

    model: str
    per_min: float
    tokens: bool = False

    @property
    def per_s(self) -> float:
        """The rate a second."""
        return self.per_min / 60


@dataclass(frozen=True)
class Use:
    """What passed of a limit within a window: the share of it that was used, calls, and 429s."""

    share: float
    calls: int
    refused: int

    @property
    def refused_max(self) -> float:
        """So many 429s are allowed: one, or one call in a thousand."""
        return max(1.0, 0.001 * self.calls)


def use_of(limit: Limit, rows: Sequence[Sequence[int]], since: int, seconds: int) -> Use:
    """The use in the whole seconds from `since` on; `rows` are second, requests, tokens, refused."""
    within = [row for row in rows if since <= row[0] < since + seconds]
    used = sum(row[_TOKENS if limit.tokens else _REQUESTS] for row in within)
    calls = sum(row[1] + row[3] for row in within)
    return Use(used / (limit.per_s * seconds), calls, sum(row[3] for row in within))


def course_of(
    limit: Limit, rows: Sequence[Sequence[int]], since: int, until: int, smooth_s: int
) -> list[tuple[float, float]]:
    """The share used over time: at each second, counted from `since`, that of the `smooth_s` seconds before its end."""
    used: Mapping[int, int] = {row[0]: row[_TOKENS if limit.tokens else _REQUESTS] for row in rows}
    points = []
    for second in range(since + smooth_s - 1, until):
        passed = sum(used.get(each, 0) for each in range(second - smooth_s + 1, second + 1))
        points.append((float(second - since + 1), passed / (limit.per_s * smooth_s)))
    return points


def back_after_s(arrivals: Sequence[float], at_s: float, per_s: float, span_s: float, share: float) -> float:
    """How long after `at_s` begins the first span in which `share` of the rate arrived; infinite if none does.

    `arrivals` ascend.
    """
    start = at_s
    while arrivals and start + span_s <= arrivals[-1]:
        came = bisect_left(arrivals, start + span_s) - bisect_left(arrivals, start)
        if came >= share * per_s * span_s:
            return start - at_s
        start += _STEP_S
    return float("inf")
