"""Periods of budgets: when the day, the week or the month of a moment begins and ends in a time zone.

Days begin when the clock on the wall first shows midnight, or skips it. Periods leave no gap and never overlap.
"""

from datetime import datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from tollway.domain.budgets import Period

FOREVER = float("inf")


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def span(period: Period, timezone: str, at: float) -> tuple[float, float]:
    """The period that holds a moment, as [begins, ends) in epoch seconds; `total` is from the epoch for ever.

    Raises ZoneInfoNotFoundError for a zone that the system does not know.
    """
    if period is Period.TOTAL:
        return 0.0, FOREVER
    zone = _zone(timezone)
    first = datetime.fromtimestamp(at, zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    if period is Period.WEEK:
        first -= timedelta(days=first.weekday())
    elif period is Period.MONTH:
        first = first.replace(day=1)
    begins, after = _moment(first, zone), _next(period, first)
    ends = _moment(after, zone)
    if at >= ends:  # the wall's clock was set back over midnight: the new day has begun already
        begins, ends = ends, _moment(_next(period, after), zone)
    return begins, ends


def _next(period: Period, first: datetime) -> datetime:
    if period is Period.DAY:
        return first + timedelta(days=1)
    if period is Period.WEEK:
        return first + timedelta(days=7)
    return (first + timedelta(days=32)).replace(day=1)


def _moment(wall: datetime, zone: ZoneInfo) -> float:
    return wall.replace(tzinfo=zone, fold=0).timestamp()
