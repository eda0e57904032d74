"""How long to wait before another attempt: exponential, jittered, bounded. Pure."""

FIRST_S = 1.0
MOST_S = 60.0


def retry_delay_s(errors: int, random: float) -> float:
    """Seconds until the attempt after `errors` earlier failures; `random` in [0, 1) spreads it over ± 50 %."""
    backoff_s: float = min(MOST_S, FIRST_S * 2.0 ** min(errors, 16))
    return backoff_s * (0.5 + random)
