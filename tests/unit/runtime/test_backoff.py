"""Backoff: growing, spread, bounded."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.runtime.backoff import FIRST_S, MOST_S, retry_delay_s


def test_the_middle_doubles_until_the_most() -> None:
    """With no jitter either way: 1, 2, 4, … 60 seconds, and no overflow after a thousand errors."""
    assert [retry_delay_s(errors, 0.5) for errors in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert retry_delay_s(1000, 0.5) == MOST_S


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_half(errors: int, random: float) -> None:
    """Every delay is within half of its middle, so never at once and never beyond 90 seconds."""
    delay_s = retry_delay_s(errors, random)
    middle_s = retry_delay_s(errors, 0.5)
    assert 0.5 * middle_s <= delay_s <= 1.5 * middle_s
    assert 0.5 * FIRST_S <= delay_s <= 1.5 * MOST_S
