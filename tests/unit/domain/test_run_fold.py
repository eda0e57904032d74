"""The fold of a run's events: which attempt was the last that began."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from tollway.domain.fold import fold

AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Event:
    """An event without data."""

    type: str
    at: datetime = AT
    data: str | None = None


@pytest.mark.parametrize(
    ("types", "attempt"),
    [
        ("accepted", 1),
        ("accepted cancelled", 1),
        ("accepted claimed handed_back claimed succeeded", 1),
        ("accepted claimed retried claimed succeeded", 2),
        ("accepted claimed retried cancelled", 2),
        ("accepted claimed retried claimed dead", 2),
        ("accepted claimed retried claimed retried claimed retried dead", 3),
    ],
)
def test_the_attempt_is_the_last_that_was_due_or_began(types: str, attempt: int) -> None:
    """Errors and lost workers raise it, hand-backs do not; poison dies without another attempt having begun."""
    assert fold(Event(kind) for kind in types.split()).attempt == attempt
