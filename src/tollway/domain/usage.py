"""Usage as reports ask for it: what to group by, which rows of days and months make up a span, percentiles of buckets.

Pure: no clock, no I/O.
"""

from collections.abc import Collection, Mapping
from datetime import date, timedelta
from typing import NamedTuple

GROUPS = ("day", "tenant", "agent", "lane", "tier", "route", "step", "key", "task_type")
"""What usage may be grouped by, in the order in which rows are sorted."""

_FINE = 4  # bits of an amount that its bucket keeps below the highest one
_EXACT = 1 << _FINE
BUCKET_ERROR = 0.5 / _EXACT
"""How far an amount may be from what its bucket says, as a share of it: 3.1 %."""


class Unit(NamedTuple):
    """One day or month of rows. `upto` is None for a day that counts by itself.

    Else it is of a month that counts, if that holds no day from `upto` on yet, and of its days, each of which counts
    while its month lacks it or does not count.
    """

    span: str
    begins: date
    upto: date | None = None


def cover(begin: date, end: date, *, by_day: bool = False) -> list[Unit]:
    """What has every day from `begin` to before `end` exactly once.

    Months from their first day on are asked for as such, unless `by_day`: also one that `end` cuts, which will do as
    long as it holds no more than that, as the present month up to today does.
    """
    units = []
    day = begin
    while day < end:
        after = month_after(day)
        if by_day or day.day != 1:
            units.append(Unit("day", day))
            day += timedelta(days=1)
            continue
        upto = date.max if after <= end else end
        units.append(Unit("month", day, upto))
        while day < min(after, end):
            units.append(Unit("day", day, upto))
            day += timedelta(days=1)
    return units


def month_after(day: date) -> date:
    """The first day of the month after that of `day`."""
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def part_of(groups: Collection[str]) -> str:
    """Which rows count the runs of these groups once each: by what of a run's calls they are told apart."""
    if "route" in groups:
        return "route step" if "step" in groups else "route"
    if "tier" in groups:
        return "tier step" if "step" in groups else "tier"
    return "step" if "step" in groups else "run"


def detail_of(groups: Collection[str]) -> str:
    """The fewest rows that tell these groups apart: `whole` has no tenants, `tenant` but days and tiers of each."""
    if "tenant" not in groups and "key" not in groups:
        return "whole"
    return "tenant" if {"day", "tenant", "tier"}.issuperset(groups) else "owner"


def bucket_of(amount: int) -> int:
    """The bucket of an amount, 0 or more: below 16 one each, above every doubling has 16. Twin of `usage_bucket`."""
    if amount < _EXACT:
        return max(amount, 0)
    shift = amount.bit_length() - 1 - _FINE
    return _EXACT * (shift + 1) + ((amount >> shift) & (_EXACT - 1))


def amount_of(bucket: int) -> int:
    """The middle of a bucket: no more than BUCKET_ERROR off what is in it."""
    if bucket < _EXACT:
        return bucket
    shift, fine = bucket // _EXACT - 1, bucket % _EXACT
    return ((_EXACT + fine) << shift) + ((1 << shift) - 1) // 2


def percentile(runs: Mapping[int, int], share: float) -> int | None:
    """The amount that `share` of the runs do not exceed (nearest rank), by runs of each bucket; None without runs."""
    total = sum(runs.values())
    if not total:
        return None
    wanted, passed = max(1, -(-int(share * 1_000_000) * total // 1_000_000)), 0
    for bucket in sorted(runs):
        passed += runs[bucket]
        if passed >= wanted:
            return amount_of(bucket)
    raise AssertionError("the last bucket ends the count")
