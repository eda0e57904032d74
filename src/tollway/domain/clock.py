"""Time as an argument: a wall clock anchored to the database and a monotonic one."""

import time
from typing import Protocol


class Clock(Protocol):
    """What every decision asks the time of."""

    def now(self) -> float:
        """Seconds since the epoch, as the database sees them."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""


class AnchoredClock:
    """The database's time, carried forward on this machine's monotonic clock.

    `anchor()` takes a fresh reading; between readings a jump of the local wall clock changes nothing.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self._offset

    def monotonic(self) -> float:
        return time.monotonic()

    def anchor(self, database_now: float, asked_at: float, answered_at: float) -> None:
        """Take the database's `now` (epoch seconds), read between two local monotonic instants."""
        self._offset = database_now - (asked_at + answered_at) / 2
