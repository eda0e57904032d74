"""Fair by cost: start-time fair queueing over lines. The SQL of `claim_runs` and `true_up` is the twin of these.

Each line (a tenant's runs of one agent, within a lane) has a virtual time: the cost it was served, over its weight. A
run's virtual start is its line's time plus the cost before it in the line over the weight; least starts go first
(Goyal, Vin, Cheng 1996: start-time fair queueing; VTC, arXiv 2401.00588, for LLM serving).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

QUANTUM = 4
"""How many runs a line may get in one claim, however small its fair part is."""

UNKNOWN_NANO = 1_000_000
"""What a run is taken to cost, when a line's part of a claim is fixed, while nothing is known of it."""

LINES_OF_CLASS_MIN = 8
KEPT_PER_RUN = 0.9
"""What one more run leaves of a line's moving average."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A runnable run: its place in the line (µs) and the cost it was accepted with as an estimate (nano-dollars)."""

    id: int
    place: int
    est_nano: int


@dataclass(frozen=True, slots=True)
class Line:
    """One tenant's line of an agent: virtual time, the tenant's weight, runs; what one cost lately, or 0."""

    tenant: str
    vtime: float
    weight: float
    runs: Sequence[Waiting]
    agent: str = "agent"
    est_nano: int = 0
    floor: float = 0.0

    @property
    def start(self) -> float:
        """Where its next run starts: a line left behind the `floor`, where service stands, goes on from there."""
        return max(self.vtime, self.floor)


@dataclass(frozen=True, slots=True)
class Taken:
    """A run that is claimed, and what its line is charged for it."""

    agent: str
    tenant: str
    run: Waiting
    cost_nano: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most runs a claim may bring of an agent, of a tenant, and of any other tenant; else there is no bound."""

    agents: Mapping[str, int] = field(default_factory=dict)
    tenants: Mapping[str, int] = field(default_factory=dict)
    other_tenant: int | None = None


def quotas(lines: Sequence[Line], wanted: int) -> list[int]:
    """The most runs that a claim of `wanted` takes from each of the lines it looks at, whose weights are their shares.

    Twice a line's fair part, so that one which fell behind catches up, and a few at least.
    """
    rates = [line.weight / (line.est_nano or UNKNOWN_NANO) for line in lines]
    whole = sum(rates)
    return [min(wanted, max(QUANTUM, math.ceil(2 * wanted * rate / whole - 1e-6))) for rate in rates]


def pick(lines: Sequence[Line], wanted: int, lines_max: int, bounds: Bounds | None = None) -> list[Taken]:
    """The runs to claim, least virtual start first."""
    bounds = bounds or Bounds()
    shares = _shares(lines, lines_max, bounds)
    starts: list[tuple[float, int, Taken]] = []
    for line, per_line in zip(shares, quotas(shares, wanted), strict=True):
        before = 0
        for run in sorted(line.runs, key=lambda run: (run.place, run.id))[:per_line]:
            cost = line.est_nano or run.est_nano
            taken = Taken(line.agent, line.tenant, run, cost)
            starts.append((line.start + before / line.weight, run.place, taken))
            before += cost
    starts.sort(key=lambda item: (item[0], item[1]))
    return _within([taken for _, _, taken in starts], wanted, bounds)[:wanted]


def cut_short(
    lines: Sequence[Line], wanted: int, lines_max: int, picked: Sequence[Taken], bounds: Bounds | None = None
) -> bool:
    """Whether a claim brought less than was wanted because some line got all its part of it: more may wait behind."""
    if len(picked) >= wanted:
        return False
    got = Counter((taken.agent, taken.tenant) for taken in picked)
    shares = _shares(lines, lines_max, bounds or Bounds())
    return any(got[line.agent, line.tenant] >= most for line, most in zip(shares, quotas(shares, wanted), strict=True))


def charge(lines: Sequence[Line], picked: Sequence[Taken]) -> Mapping[tuple[str, str], float]:
    """Each line's virtual time, by agent and tenant, after it got what was picked."""
    vtimes = {(line.agent, line.tenant): line.vtime for line in lines}
    starts = {(line.agent, line.tenant): line.start for line in lines}
    weights = _weights(lines)
    for taken in picked:
        line = (taken.agent, taken.tenant)
        vtimes[line] = max(vtimes[line], starts[line]) + taken.cost_nano / weights[taken.agent, taken.tenant]
    return vtimes


def learned(est_nano: float, runs: int, cost_nano: float) -> float:
    """The moving average after `runs` that cost this much together."""
    if runs == 0:
        return est_nano
    kept = KEPT_PER_RUN**runs if est_nano else 0.0
    return max(1.0, est_nano * kept + cost_nano / runs * (1 - kept))


def trued(vtime: float, entered: float, due: float) -> float:
    """A line's virtual time once what its runs really cost beyond their charge is `due`.

    A refund takes it no further back than where it entered last: what it was charged before is a credit no more.
    """
    return max(entered, vtime + due)


def _weights(lines: Sequence[Line]) -> Mapping[tuple[str, str], float]:
    """A tenant's weight is divided by its open lines, so that many agents give it no greater share."""
    open_lines = Counter(line.tenant for line in lines)
    return {(line.agent, line.tenant): line.weight / open_lines[line.tenant] for line in lines}


def _shares(lines: Sequence[Line], lines_max: int, bounds: Bounds) -> list[Line]:
    """The lines that a claim looks at, each with its share of its tenant's weight."""
    weights = _weights(lines)
    return [replace(line, weight=weights[line.agent, line.tenant]) for line in _looked_at(lines, lines_max, bounds)]


def _looked_at(lines: Sequence[Line], lines_max: int, bounds: Bounds) -> Sequence[Line]:
    agents = {line.agent for line in lines}
    per_agent = max(LINES_OF_CLASS_MIN, -(-lines_max // max(1, len(agents))))
    found: list[Line] = []
    for agent in agents:
        open_lines = (line for line in lines if line.agent == agent and bounds.tenants.get(line.tenant) != 0)
        found += sorted(open_lines, key=lambda line: line.vtime)[:per_agent]
    return sorted(found, key=lambda line: line.vtime)[:lines_max]


def _within(order: Sequence[Taken], wanted: int, bounds: Bounds) -> list[Taken]:
    agents: Counter[str] = Counter()
    tenants: Counter[str] = Counter()
    kept = []
    for taken in order:
        agents[taken.agent] += 1
        tenants[taken.tenant] += 1
        of_agent = bounds.agents.get(taken.agent)
        of_tenant = bounds.tenants.get(taken.tenant, bounds.other_tenant)
        if _holds(of_agent, agents[taken.agent], wanted) and _holds(of_tenant, tenants[taken.tenant], wanted):
            kept.append(taken)
    return kept


def _holds(most: int | None, rank: int, wanted: int) -> bool:
    return most is None or most >= wanted or rank <= most
