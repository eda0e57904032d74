"""Whether a tenant spends far more than it used to. Pure.

The measure is its own past: what it usually spends in an hour is the larger of its recent level (a mean over two days
that halves its weight every six hours) and the median of this time of day in the last two weeks, an hour early or late
counted in. The last hour is a spike at `factor` times a usual hour, the last ten minutes at two thirds of that, so that
an hourly job may spend its whole hour in ten minutes. A spike is over at half of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from tollway.record.spending import Lately

SHORT_S = 600
LONG_S = 3600
HOURS_MIN = 3
RECENT_HOURS = 48
HALF_LIFE_HOURS = 6.0
DAYS = 14
SHORT_SHARE = 2 / 3
OVER_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class SpikeRule:
    """How many usual hours make a spike, and below which sum, nano-dollars, nothing does."""

    factor: float = 3.0
    least_nano: int = 1_000_000_000


DEFAULT_RULE = SpikeRule()


def usual_hour_nano(past: Mapping[int, int], hour: int) -> float | None:
    """What a tenant usually spends in an hour, by the whole hours before `hour`; None: too little is known of it.

    `past` is nano-dollars by the hour's number since the epoch. It is known since the first hour named; an hour after
    that which is not named is one in which nothing was spent.
    """
    first = min((known for known in past if known < hour), default=hour)
    if hour - first < HOURS_MIN:
        return None
    return max(_recent(past, hour, first), _this_time_of_day(past, hour, first))


def is_spike(lately: Lately, usual_nano: float, rule: SpikeRule, *, was: bool) -> bool:
    """Whether it spends far more than usual; one that `was` a spike stays it until it is well below."""
    long = max(rule.factor * usual_nano, float(rule.least_nano))
    short = max(SHORT_SHARE * rule.factor * usual_nano, float(rule.least_nano))
    if lately.long_nano >= long or lately.short_nano >= short:
        return True
    return was and (lately.long_nano >= OVER_SHARE * long or lately.short_nano >= OVER_SHARE * short)


def _recent(past: Mapping[int, int], hour: int, first: int) -> float:
    ages = range(1, min(RECENT_HOURS, hour - first) + 1)
    weights = [math.exp2(-age / HALF_LIFE_HOURS) for age in ages]
    return sum(weight * past.get(hour - age, 0) for age, weight in zip(ages, weights, strict=True)) / sum(weights)


def _this_time_of_day(past: Mapping[int, int], hour: int, first: int) -> float:
    days = [hour - 24 * day for day in range(1, DAYS + 1) if hour - 24 * day >= first]
    return float(median(max(past.get(near, 0) for near in (at - 1, at, at + 1)) for at in days)) if days else 0.0
