"""How a limit is divided: lanes by share and precedence, in a lane tenants and then agents by max-min. Pure.

A lane is sure of its share of the limit; what is left goes to the lanes in the order of their precedence, so urgent
work takes what patient work would have, but for its share. Max-min (the water-filling of Google Doorman's FAIR_SHARE):
nobody gets more than he wants, and what one leaves the others share by weight. Calls use several limits at once, so
flows are compared by their dominant share (DRF, Ghodsi et al. 2011): the largest part of any limit that they take.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

LANE_SHARE_MIN = 0.05
_SEARCH_STEPS = 12
_CLOSE_ENOUGH = 0.001


class Leaf(NamedTuple):
    """What one flow wants of a divided whole. `weight` is its tenant's."""

    lane: str
    tenant: str
    agent: str
    want: float
    weight: float = 1.0


class Division(NamedTuple):
    """`parts`: of its want, what each flow gets (0 to 1); `usage`: of each limit, what they take together (0 to 1)."""

    parts: list[float]
    usage: list[float]


def fill(wants: Sequence[float], weights: Sequence[float], capacity: float) -> list[float]:
    """Weighted max-min shares: at most the want each, together at most `capacity`. Weights are above 0."""
    if sum(wants) <= capacity:
        return list(wants)
    shares = [0.0] * len(wants)
    left, weight_left = max(0.0, capacity), sum(weights)
    order = sorted(range(len(wants)), key=lambda at: wants[at] / weights[at])
    for place, at in enumerate(order):
        if wants[at] * weight_left > left * weights[at]:
            for rest in order[place:]:
                shares[rest] = left * weights[rest] / weight_left
            break
        shares[at] = wants[at]
        left = max(0.0, left - wants[at])
        weight_left -= weights[at]
    return shares


def fill_lanes(wants: Sequence[float], guarantees: Sequence[float], capacity: float) -> list[float]:
    """Shares of lanes in the order of their precedence: each its guaranteed part first, then the first what it wants.

    Guarantees are parts of the capacity; if they are more than the whole together, each is cut alike.
    """
    if sum(wants) <= capacity:
        return list(wants)
    capacity = max(0.0, capacity)
    scale = capacity / max(1.0, sum(guarantees))
    shares = [min(want, part * scale) for want, part in zip(wants, guarantees, strict=True)]
    left = max(0.0, capacity - sum(shares))
    for at, want in enumerate(wants):
        more = min(left, want - shares[at])
        shares[at] += more
        left -= more
    return shares


class Tree:
    """The flows by lane, tenant and agent, built once and filled as often as a search needs.

    `lanes` are the shares of lanes in the order of their precedence; one not named there comes last, with the least.
    """

    def __init__(self, leaves: Sequence[Leaf], lanes: Mapping[str, float]) -> None:
        self._wants = [leaf.want for leaf in leaves]
        by_lane: dict[str, dict[str, list[int]]] = {}
        ranks = {lane: rank for rank, lane in enumerate(lanes)}
        inner = sorted(range(len(leaves)), key=lambda at: ranks.get(leaves[at].lane, len(ranks)))
        for at in inner:
            leaf = leaves[at]
            by_lane.setdefault(leaf.lane, {}).setdefault(leaf.tenant, []).append(at)
        self._guarantees = [max(lanes.get(lane, 0.0), LANE_SHARE_MIN) for lane in by_lane]
        self._lanes = [list(tenants.values()) for tenants in by_lane.values()]
        self._tenant_weights = [
            [max(leaves[at].weight for at in tenant) for tenant in tenants] for tenants in self._lanes
        ]
        self._tenant_wants = [[sum(self._wants[at] for at in tenant) for tenant in tenants] for tenants in self._lanes]
        self._lane_wants = [sum(wants) for wants in self._tenant_wants]

    def fill(self, capacity: float) -> list[float]:
        """The share of each leaf, in the order given."""
        shares = list(self._wants)
        for lane, of_lane in enumerate(fill_lanes(self._lane_wants, self._guarantees, capacity)):
            if of_lane >= self._lane_wants[lane]:
                continue
            of_tenants = fill(self._tenant_wants[lane], self._tenant_weights[lane], of_lane)
            for tenant, of_tenant in enumerate(of_tenants):
                if of_tenant >= self._tenant_wants[lane][tenant]:
                    continue
                agents = self._lanes[lane][tenant]
                of_agents = fill([self._wants[at] for at in agents], [1.0] * len(agents), of_tenant)
                for at, of_agent in zip(agents, of_agents, strict=True):
                    shares[at] = of_agent
        return shares


def divide(
    leaves: Sequence[Leaf], needs: Sequence[Sequence[float]], limits: Sequence[float], lanes: Mapping[str, float]
) -> Division:
    """Divide several limits at once, fair by dominant share, until the first of them is used up.

    `needs[i]` is what leaf i takes of each limit if it gets all it wants; a limit of 0 is none. The wants of the leaves
    are not read: the dominant share of their needs is.
    """
    active = [at for at, limit in enumerate(limits) if limit > 0]
    fractions = [[need[at] / limits[at] for at in active] for need in needs]
    dominant = [max(fraction, default=0.0) for fraction in fractions]

    def usage(shares: Sequence[float]) -> list[float]:
        used = [0.0] * len(active)
        for share, want, fraction in zip(shares, dominant, fractions, strict=True):
            if want > 0:
                part = share / want
                for at, value in enumerate(fraction):
                    used[at] += value * part
        return used

    shares, used = dominant, usage(dominant)
    if max(used, default=0.0) > 1:
        tree = Tree([leaf._replace(want=want) for leaf, want in zip(leaves, dominant, strict=True)], lanes)
        shares, used = _search(tree, usage, len(active), sum(dominant))
    whole = [0.0] * len(limits)
    for at, value in zip(active, used, strict=True):
        whole[at] = value
    return Division([s / want if want > 0 else 1.0 for s, want in zip(shares, dominant, strict=True)], whole)


def _search(
    tree: Tree, usage: Callable[[Sequence[float]], list[float]], limits: int, wanted: float
) -> tuple[list[float], list[float]]:
    """The fill at which the fullest limit is just full.

    Every unit of dominant share takes a unit of some limit, so the answer lies between 1 and the number of limits.
    """
    low, high = 1.0, min(wanted, float(limits))
    best = tree.fill(low)
    used = usage(best)
    if limits > 1:
        for _ in range(_SEARCH_STEPS):
            if max(used) >= 1 - _CLOSE_ENOUGH:
                break
            middle = (low + high) / 2
            shares = tree.fill(middle)
            taken = usage(shares)
            if max(taken) <= 1:
                low, best, used = middle, shares, taken
            else:
                high = middle
    return best, used
