"""UUIDv7 ids: 48 bits of milliseconds, then 74 bits of counter and randomness, so ids sort by time.

Layout after RFC 9562, section 5.7. Ids made in one process within one millisecond keep their order.
"""

import os
from uuid import UUID

from tollway.domain.clock import Clock

_VERSION = 0x7000
_VARIANT = 0x8000_0000_0000_0000
_COUNTER_BITS = 12
_RANDOM_POOL_BYTES = 8192


class IdMaker:
    """Makes ids in strictly rising order; one a process is enough."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tick = 0
        self._pool = b""
        self._at = 0

    def new(self) -> UUID:
        """The next id, stamped with database-anchored time."""
        tick = int(self._clock.now() * 1000) << _COUNTER_BITS
        self._tick = tick if tick > self._tick else self._tick + 1
        millis = self._tick >> _COUNTER_BITS
        if self._at >= len(self._pool):
            self._pool = os.urandom(_RANDOM_POOL_BYTES)
            self._at = 0
        low = int.from_bytes(self._pool[self._at : self._at + 8], "big") & 0x3FFF_FFFF_FFFF_FFFF
        self._at += 8
        high = (millis << 16) | _VERSION | (self._tick & 0xFFF)
        return UUID(int=(high << 64) | _VARIANT | low)


def floor_at(epoch_s: float) -> UUID:
    """The least id that can have been made at or after `epoch_s`: a bound for range partitions and time filters."""
    return UUID(int=(max(0, int(epoch_s * 1000)) << 80))


def parse_id(text: str) -> UUID | None:
    """The id a client wrote, or None when it is not one (an unknown id is a 404, never a 500)."""
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None
