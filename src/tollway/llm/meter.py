"""What a route did in the last minute: calls, tokens, failures, 429s, latency. Pure: the time is an argument.

Twelve slices of five seconds; latencies in buckets a quarter apart, so a percentile is at most a quarter too high.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

SLICE_S = 5.0
SLICES = 12
LATENCY_BOUNDS_S = tuple(0.001 * 1.25**step for step in range(60))
_COUNTS = ("calls", "failed", "throttled", "input_tokens", "output_tokens", "fallbacks")


class _Slice:
    __slots__ = ("counts", "latencies", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.counts = dict.fromkeys(_COUNTS, 0)
        self.latencies: dict[int, int] = {}


class RouteMeter:
    """One route, as this process sees it. `calls` are those that came back, whole or failed."""

    __slots__ = ("_slices", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self._slices = [_Slice(-1) for _ in range(SLICES)]

    def begin(self) -> None:
        """A call goes out."""
        self.in_flight += 1

    def done(self, now: float, latency_s: float, input_tokens: int, output_tokens: int, *, fallback: bool) -> None:
        """It came back whole; `fallback`: in the stead of another route."""
        self.in_flight -= 1
        current = self._slice(now)
        counts = current.counts
        counts["calls"] += 1
        counts["input_tokens"] += input_tokens
        counts["output_tokens"] += output_tokens
        counts["fallbacks"] += fallback
        bucket = min(bisect_left(LATENCY_BOUNDS_S, latency_s), len(LATENCY_BOUNDS_S) - 1)
        current.latencies[bucket] = current.latencies.get(bucket, 0) + 1

    def failed(self, now: float, *, throttled: bool) -> None:
        """It failed; `throttled`: by a 429."""
        self.in_flight -= 1
        counts = self._slice(now).counts
        counts["calls"] += 1
        counts["throttled" if throttled else "failed"] += 1

    def cut(self) -> None:
        """Nobody waited for it any more."""
        self.in_flight -= 1

    def facts(self, now: float) -> dict[str, Any]:
        """The last minute as JSON carries it; empty when there was nothing."""
        number = int(now // SLICE_S)
        live = [one for one in self._slices if number - SLICES < one.number <= number]
        found: dict[str, Any] = {name: sum(one.counts[name] for one in live) for name in _COUNTS}
        found["in_flight"] = self.in_flight
        found["latencies"] = _joined(one.latencies.items() for one in live)
        return {name: value for name, value in found.items() if value}

    def _slice(self, now: float) -> _Slice:
        number = int(now // SLICE_S)
        current = self._slices[number % SLICES]
        if current.number != number:
            current = self._slices[number % SLICES] = _Slice(number)
        return current


def joined_facts(told: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of several processes about one route, as one: sums, and percentiles in seconds (None without calls)."""
    told = list(told)
    found: dict[str, Any] = {name: sum(int(one.get(name, 0)) for one in told) for name in (*_COUNTS, "in_flight")}
    latencies = _joined(one.get("latencies", ()) for one in told)
    found["latency"] = {"p50_s": _percentile(latencies, 0.5), "p99_s": _percentile(latencies, 0.99)}
    return found


def _joined(parts: Iterable[Iterable[Any]]) -> list[list[int]]:
    counts: dict[int, int] = {}
    for part in parts:
        for bucket, count in part:
            counts[int(bucket)] = counts.get(int(bucket), 0) + int(count)
    return [[bucket, counts[bucket]] for bucket in sorted(counts)]


def _percentile(latencies: list[list[int]], share: float) -> float | None:
    """The bound of the bucket in which it lies."""
    rank = share * sum(count for _, count in latencies)
    for bucket, count in latencies:
        rank -= count
        if rank <= 0:
            return round(LATENCY_BOUNDS_S[min(max(bucket, 0), len(LATENCY_BOUNDS_S) - 1)], 4)
    return None
