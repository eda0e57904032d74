"""Fair by cost: start-time fair queueing over lines. The SQL of `claim_runs` is this function's twin.

Each line (a tenant's runs within a lane and class) has a virtual time: the cost it was served, over its weight. A run's
virtual start is its line's time plus the cost before it in the line over the weight; the least starts are served first
(Goyal, Vin, Cheng 1996: start-time fair queueing; VTC, arXiv 2401.00588, for LLM serving).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """A runnable run: its place in the line (µs) and its estimated cost (nano-dollars)."""

    id: int
    place: int
    est_nano: int


@dataclass(frozen=True, slots=True)
class Line:
    """One tenant's line: virtual time, weight, and its runs."""

    tenant: str
    vtime: float
    weight: float
    runs: Sequence[Waiting]


def pick(lines: Sequence[Line], wanted: int, lines_max: int) -> list[tuple[str, Waiting]]:
    """The runs to claim, as (tenant, run), least virtual start first."""
    looked_at = sorted(lines, key=lambda line: line.vtime)[:lines_max]
    if not looked_at:
        return []
    per_line = min(wanted, max(4, 2 * wanted // len(looked_at)))
    starts: list[tuple[float, int, str, Waiting]] = []
    for line in looked_at:
        before = 0
        for run in sorted(line.runs, key=lambda run: (run.place, run.id))[:per_line]:
            starts.append((line.vtime + before / line.weight, run.place, line.tenant, run))
            before += run.est_nano
    starts.sort(key=lambda item: (item[0], item[1]))
    return [(tenant, run) for _, _, tenant, run in starts[:wanted]]


def charge(lines: Sequence[Line], picked: Sequence[tuple[str, Waiting]]) -> Mapping[str, float]:
    """Each tenant's virtual time after it got what was picked."""
    vtimes = {line.tenant: line.vtime for line in lines}
    weights = {line.tenant: line.weight for line in lines}
    for tenant, run in picked:
        vtimes[tenant] += run.est_nano / weights[tenant]
    return vtimes
