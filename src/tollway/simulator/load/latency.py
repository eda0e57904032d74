"""Latencies as figures: exact quantiles of all that was measured, in milliseconds."""

from collections.abc import Sequence

import msgspec


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles in milliseconds over `count` samples; all zero when there are none."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latency":
        """The latency of these samples, given in seconds."""
        if not seconds:
            return cls()
        ranked = sorted(seconds)
        return cls(
            count=len(ranked),
            mean=_ms(sum(ranked) / len(ranked)),
            p50=_ms(quantile(ranked, 0.5)),
            p90=_ms(quantile(ranked, 0.9)),
            p99=_ms(quantile(ranked, 0.99)),
            p999=_ms(quantile(ranked, 0.999)),
            max=_ms(ranked[-1]),
        )


def quantile(ranked: Sequence[float], share: float) -> float:
    """The least sample that at least `share` of the ascending `ranked` do not exceed (nearest rank)."""
    rank = -int(-share * len(ranked) // 1)
    return ranked[min(max(rank, 1), len(ranked)) - 1]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
