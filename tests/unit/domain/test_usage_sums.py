"""Usage's pure decisions: which rows make up a span of days, which tell groups apart, buckets and percentiles."""

import math
from collections import Counter
from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.usage import (
    BUCKET_ERROR,
    GROUPS,
    Unit,
    amount_of,
    bucket_of,
    cover,
    detail_of,
    month_after,
    part_of,
    percentile,
)

DAYS = st.dates(date(2000, 1, 1), date(2100, 1, 1))
AMOUNTS = st.integers(0, (1 << 62) - 1)


def counts(unit: Unit, folded: date) -> bool:
    """Whether a unit counts when days before `folded` are in their months, as the queries of usage have it."""
    if unit.upto is None:
        return True
    return folded <= unit.upto if unit.span == "month" else unit.begins >= folded or folded > unit.upto


@given(DAYS, st.integers(0, 200), st.integers(-60, 260), st.booleans())
def test_each_day_counts_once(begin: date, length: int, ahead: int, by_day: bool) -> None:
    """However far days are folded into months, a cover has each of its days once, and no other."""
    end, folded, found = begin + timedelta(days=length), begin + timedelta(days=ahead), Counter[date]()
    for unit in cover(begin, end, by_day=by_day):
        if not counts(unit, folded):
            continue
        day, last = unit.begins, unit.begins + timedelta(days=1)
        if unit.span == "month":
            last = min(month_after(day), folded)  # what a month's rows hold
        while day < last:
            found[day] += 1
            day += timedelta(days=1)
    assert found == Counter(begin + timedelta(days=n) for n in range(length))


@given(DAYS, st.integers(0, 200), st.integers(-1, 1))
def test_up_to_today_the_present_month_is_one(begin: date, length: int, ahead: int) -> None:
    """A report that ends with today reads the present month as one, beside days that are not folded yet."""
    today = begin + timedelta(days=length)
    folded = today - timedelta(days=ahead)
    read = [unit for unit in cover(begin, today + timedelta(days=1)) if counts(unit, folded)]
    singly = [unit for unit in read if unit.span == "day" and unit.begins < folded]
    assert all(unit.begins.day != 1 and unit.begins < month_after(begin) for unit in singly)


@given(DAYS, st.integers(0, 200))
def test_a_report_by_day_reads_days(begin: date, length: int) -> None:
    """By day no month is read, and no day depends on the fold."""
    units = cover(begin, begin + timedelta(days=length), by_day=True)
    assert all(unit.span == "day" and unit.upto is None for unit in units)


@given(AMOUNTS)
def test_a_bucket_says_its_amounts_within_the_error(amount: int) -> None:
    """The middle of an amount's bucket is within BUCKET_ERROR of it, and in that very bucket."""
    bucket = bucket_of(amount)
    assert abs(amount_of(bucket) - amount) <= BUCKET_ERROR * amount
    assert bucket_of(amount_of(bucket)) == bucket < 1 << 15


@given(AMOUNTS, AMOUNTS)
def test_buckets_are_in_the_order_of_amounts(one: int, other: int) -> None:
    """No smaller amount has a greater bucket."""
    low, high = sorted((one, other))
    assert bucket_of(low) <= bucket_of(high)


@given(st.lists(AMOUNTS, min_size=1), st.sampled_from((0.5, 0.9, 0.99)))
def test_a_percentile_is_that_of_the_amounts(amounts: list[int], share: float) -> None:
    """By buckets it is the nearest-rank percentile of the amounts themselves, within the error of a bucket."""
    true = sorted(amounts)[math.ceil(round(share * 100) * len(amounts) / 100) - 1]
    found = percentile(Counter(bucket_of(amount) for amount in amounts), share)
    assert found is not None
    assert abs(found - true) <= BUCKET_ERROR * true


def test_no_runs_have_no_percentile() -> None:
    """Without runs there is none."""
    assert percentile({}, 0.5) is None


@given(st.sets(st.sampled_from(GROUPS)))
def test_the_rows_read_tell_the_groups_apart(groups: set[str]) -> None:
    """Rows of a part and a detail tell at least the groups apart that are asked for."""
    assert {"tier", "route", "step"} & groups <= {*part_of(groups).split(), *(["tier"] if "route" in groups else [])}
    told = {
        "whole": set(GROUPS) - {"tenant", "key"},
        "tenant": {"day", "tenant", "tier"},
        "owner": set(GROUPS),
    }[detail_of(groups)]
    assert groups <= told
    assert detail_of(groups) != "tenant" or part_of(groups) in ("run", "tier")
