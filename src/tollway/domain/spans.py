"""The spans in which tokens are counted against quotas: slices of seconds, UTC days. Moments are epoch seconds."""

SLICE_S = 5
"""A minute is the slices that reach into the last 60 s."""

MINUTE_S = 60
DAY_S = 86_400


def slice_of(now: float) -> int:
    """The begin of the slice that a moment is in."""
    return int(now // SLICE_S) * SLICE_S


def day_of(now: float) -> int:
    """The begin of the UTC day that a moment is in."""
    return int(now // DAY_S) * DAY_S
