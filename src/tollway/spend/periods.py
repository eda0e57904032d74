"""Periods of budgets: when the day, the week or the month of a moment begins and ends in a time zone.

Days begin when the clock on the wall first shows midnight, or skips it. Periods leave no gap and never overlap.
"""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from tollway.domain.budgets import Period
from tollway.spend.zones import zone

FOREVER = float("inf")


def span(period: Period, timezone: str, at: float) -> tuple[float, float]:
    """The period that holds a moment, as [begins, ends) in epoch seconds; `total` is from the epoch for ever.

    Raises ZoneInfoNotFoundError for a zone that there is not.
    """
    if period is Period.TOTAL:
        return 0.0, FOREVER
    place = zone(timezone)
    first = datetime.fromtimestamp(at, place).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    if period is Period.WEEK:
        first -= timedelta(days=first.weekday())
    elif period is Period.MONTH:
        first = first.replace(day=1)
    begins, after = _moment(first, place), _next(period, first)
    ends = _moment(after, place)
    if at >= ends:  # the wall's clock was set back over midnight: the new day has begun already
        begins, ends = ends, _moment(_next(period, after), place)
    return begins, ends


def _next(period: Period, first: datetime) -> datetime:
    if period is Period.DAY:
        return first + timedelta(days=1)
    if period is Period.WEEK:
        return first + timedelta(days=7)
    return (first + timedelta(days=32)).replace(day=1)


def _moment(wall: datetime, place: ZoneInfo) -> float:
    return wall.replace(tzinfo=place, fold=0).timestamp()
