"""Latencies over time, and when they are as they should be. Pure; times are seconds."""

from collections.abc import Iterator, Sequence

from tollway.simulator.load.latency import quantile
from tollway.simulator.load.plan import RunSeen

SPAN_S = 2.0
STEP_S = 0.25
_TOLERANCE_SHARE = 0.1
_TOLERANCE_S = 0.025


def p99s(runs: Sequence[RunSeen], since_s: float, until_s: float) -> Iterator[tuple[float, float]]:
    """Where each window of SPAN_S within these bounds begins, and the p99 of the runs created in it; empty ones not."""
    made = sorted((run.created_s, run.ended_s - run.created_s) for run in runs)
    first = end = 0
    at = since_s
    while at + SPAN_S <= until_s + 1e-6:
        while first < len(made) and made[first][0] < at:
            first += 1
        end = max(end, first)
        while end < len(made) and made[end][0] < at + SPAN_S:
            end += 1
        if end > first:
            yield at, quantile(sorted(span for _, span in made[first:end]), 0.99)
        at += STEP_S


def usual_p99_s(runs: Sequence[RunSeen], since_s: float, until_s: float) -> float:
    """The p99 that undisturbed runs keep to in every window."""
    return max((p99 for _, p99 in p99s(runs, since_s, until_s)), default=0.0)


def back_after_s(runs: Sequence[RunSeen], since_s: float, until_s: float, usual_s: float) -> float:
    """How long after `since_s` the p99 of new runs is back at `usual_s` for good, give or take 10 % or 25 ms.

    The whole span up to `until_s` when it never is.
    """
    allowed_s = usual_s + max(_TOLERANCE_SHARE * usual_s, _TOLERANCE_S)
    back_s = since_s
    for at, p99 in p99s(runs, since_s, until_s):
        if p99 > allowed_s:
            back_s = at + STEP_S
    return until_s - since_s if back_s + SPAN_S > until_s else back_s - since_s
