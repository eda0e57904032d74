"""How a resource was divided: shares against weights, the service gap, forecasts against what came. Pure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from tollway.simulator.bench.stock import RunLine

Served = tuple[str, float, float]
"""A tenant, when it was served (seconds), and how much."""


def normalised(served: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """What each tenant was served of what its weight entitles it to; 1.0 is exact."""
    whole = sum(served.values()) or 1.0
    weight = sum(weights.values())
    return {tenant: served.get(tenant, 0.0) / whole * weight / weights[tenant] for tenant in weights}


def jain(values: Iterable[float]) -> float:
    """Jain's index of fairness: 1.0 when all are equal, 1/n when one has everything; 1.0 of nothing."""
    each = list(values)
    squares = sum(value * value for value in each)
    return sum(each) ** 2 / (len(each) * squares) if squares else 1.0


def service_gap(
    served: Iterable[Served], weights: Mapping[str, float], since_s: float, until_s: float, step_s: float = 1.0
) -> float:
    """The widest that two backlogged tenants were ever apart in service over weight, counted from `since_s` on."""
    so_far = dict.fromkeys(weights, 0.0)
    widest, look_at = 0.0, since_s + step_s
    for tenant, at_s, amount in sorted((one for one in served if since_s <= one[1] < until_s), key=lambda one: one[1]):
        while at_s >= look_at:
            widest, look_at = max(widest, _width(so_far, weights)), look_at + step_s
        so_far[tenant] += amount
    return max(widest, _width(so_far, weights))


def _width(so_far: Mapping[str, float], weights: Mapping[str, float]) -> float:
    levels = [so_far[tenant] / weight for tenant, weight in weights.items()]
    return max(levels) - min(levels)


def forecast_errors(runs: Iterable[RunLine], wait_min_s: float = 1.0) -> list[float]:
    """Of runs that waited longer than that: how far off `predicted_start_at` was, as a share of their wait."""
    errors = []
    for run in runs:
        if run.started_s is not None and run.predicted_s is not None and run.started_s - run.created_s > wait_min_s:
            errors.append(abs(run.started_s - run.predicted_s) / (run.started_s - run.created_s))
    return errors


def median(values: Sequence[float]) -> float:
    """The median; infinite of nothing, so that no bound is kept by having measured nothing."""
    return statistics.median(values) if values else float("inf")
