"""Periods of budgets, in time zones that set their clocks back and forth."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.budgets import Period
from tollway.spend.periods import FOREVER, span
from tollway.spend.zones import zone as zone_of

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/Havana",
    "Africa/Cairo",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "America/Sao_Paulo",
)
TURNING = (Period.DAY, Period.WEEK, Period.MONTH)
MOMENTS = st.floats(0, 4_000_000_000, allow_nan=False)


def epoch(text: str) -> float:
    """A moment in UTC as epoch seconds."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@given(st.sampled_from(TURNING), st.sampled_from(ZONES), MOMENTS)
def test_periods_leave_no_gap(period: Period, zone: str, at: float) -> None:
    """Each moment is in one period; the next begins where it ends, and any moment of it tells the same."""
    begins, ends = span(period, zone, at)
    assert begins <= at < ends
    assert span(period, zone, begins) == (begins, ends)
    assert span(period, zone, (begins + ends) / 2) == (begins, ends)
    assert span(period, zone, ends)[0] == ends


@given(st.sampled_from(ZONES), MOMENTS)
def test_they_begin_where_the_wall_says(zone: str, at: float) -> None:
    """Weeks begin on Monday and months on the first, at midnight, or where the clock skipped it."""
    for period in TURNING:
        begins = datetime.fromtimestamp(span(period, zone, at)[0], zone_of(zone))
        assert begins.hour <= 1 or zone == "Pacific/Apia"
        if zone == "Pacific/Apia":
            continue
        assert period is not Period.WEEK or begins.weekday() == 0
        assert period is not Period.MONTH or begins.day == 1


@pytest.mark.parametrize(
    ("period", "zone", "at", "begins", "ends"),
    [
        (Period.DAY, "UTC", "2026-11-21T13:00", "2026-11-21T00:00", "2026-11-22T00:00"),
        (Period.WEEK, "UTC", "2026-11-22T23:59", "2026-11-16T00:00", "2026-11-23T00:00"),
        (Period.MONTH, "UTC", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        (Period.DAY, "Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        (Period.DAY, "Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        (Period.MONTH, "Asia/Kathmandu", "2026-01-31T18:30", "2026-01-31T18:15", "2026-02-28T18:15"),
    ],
)
def test_examples(period: Period, zone: str, at: str, begins: str, ends: str) -> None:
    """Days of 23 and of 25 hours, a zone three quarters of an hour off, a week that ends on Sunday."""
    assert span(period, zone, epoch(at)) == (epoch(begins), epoch(ends))


def test_a_total_never_ends() -> None:
    """Its one period holds every moment."""
    assert span(Period.TOTAL, "Asia/Tokyo", 1_800_000_000.0) == (0.0, FOREVER)
