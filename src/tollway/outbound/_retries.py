"""When a webhook that failed is tried again: a fixed ladder with jitter, and what the receiver asks for. Pure."""

from email.utils import parsedate_to_datetime

RETRIES_S = (5.0, 30.0, 120.0, 600.0, 3600.0, 10_800.0, 28_800.0, 43_200.0)
"""Rests after the first, second … failed attempt: nine attempts over about a day."""

RETRY_AFTER_S_MAX = 86_400.0
JITTER = 0.2


def retry_delay_s(attempts: int, random: float, asked_s: float | None) -> float | None:
    """Seconds until the next attempt after `attempts` failed ones, or None to give up.

    `random` in [0, 1) spreads it over ± JITTER; the receiver's wish `asked_s` may only lengthen it, up to a day.
    """
    if attempts > len(RETRIES_S):
        return None
    rest_s = RETRIES_S[max(1, attempts) - 1] * (1 - JITTER + 2 * JITTER * random)
    return max(rest_s, min(asked_s or 0.0, RETRY_AFTER_S_MAX))


def asked_delay_s(retry_after: str | None, now: float) -> float | None:
    """Seconds a `retry-after` header asks for, given as seconds or as a date; None for neither or nonsense."""
    if retry_after is None:
        return None
    try:
        asked_s = float(retry_after)
    except ValueError:
        try:
            asked_s = parsedate_to_datetime(retry_after).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return asked_s if 0 <= asked_s < float("inf") else None
