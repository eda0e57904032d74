"""Work done over time, and how long it waited. Pure; times are seconds."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from tollway.simulator.load.latency import quantile
from tollway.simulator.load.plan import RunSeen


def rate_course(ended: Sequence[float], since_s: float, until_s: float, span_s: float) -> list[tuple[float, float]]:
    """Ends a second over the whole spans from `since_s` on: the end of each (from `since_s`), and its rate."""
    at = sorted(ended)
    points = []
    for begin in _spans(since_s, until_s, span_s):
        count = bisect_left(at, begin + span_s) - bisect_left(at, begin)
        points.append((begin + span_s - since_s, count / span_s))
    return points


def wait_course(
    runs: Sequence[RunSeen], work_s: float, since_s: float, until_s: float, span_s: float
) -> list[tuple[float, float]]:
    """The median of what runs created within each span took beyond their work; spans without runs have no point."""
    points = []
    for begin in _spans(since_s, until_s, span_s):
        waits = [run.ended_s - run.created_s - work_s for run in runs if begin <= run.created_s < begin + span_s]
        if waits:
            points.append((begin + span_s - since_s, max(0.0, quantile(sorted(waits), 0.5))))
    return points


def normal_after_s(course: Sequence[tuple[float, float]], over_s: float, allowed_s: float) -> float:
    """How long after `over_s` waits are at most `allowed_s` for good; infinite when the last one is not."""
    late = [at for at, wait in course if at > over_s and wait > allowed_s]
    if not late:
        return 0.0
    return float("inf") if late[-1] >= course[-1][0] else late[-1] - over_s


def _spans(since_s: float, until_s: float, span_s: float) -> Iterator[float]:
    count = int((until_s - since_s) / span_s + 1e-9)
    return (since_s + number * span_s for number in range(count))
