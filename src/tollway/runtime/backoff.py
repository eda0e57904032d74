"""How long to wait before another attempt: exponential, jittered, bounded. Pure."""

FIRST_S = 1.0
MOST_S = 60.0


def retry_delay_s(errors: int, random: float) -> float:
    """Seconds until the attempt after `errors` earlier failures; `random` in [0, 1) spreads it over ± 50 %."""
    return min(MOST_S, FIRST_S * 2 ** min(errors, 16)) * (0.5 + random)
