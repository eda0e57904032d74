"""Who is dead: a beat unchanged for its TTL on the watcher's own monotonic clock, seen without a gap. Pure.

Clocks of the watched do not count, and nor does time in which the watcher itself could not see (a database outage, its
own suspension): after a gap everybody gets a full TTL again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Beat:
    """A process' row: its beat counter, and for how long an unchanged beat is forgiven."""

    process_id: int
    beat: int
    lease_ttl_s: float


@dataclass(slots=True)
class BeatWatch:
    """What the watcher remembers between looks."""

    gap_max_s: float
    _seen: dict[int, tuple[int, float]] = field(default_factory=dict)
    _looked_at: float | None = None

    def look(self, beats: Iterable[Beat], now: float) -> list[int]:
        """Take one look at all rows; returns the processes to be held dead."""
        if self._looked_at is None or now - self._looked_at > self.gap_max_s:
            self._seen.clear()
        self._looked_at = now
        fresh: dict[int, tuple[int, float]] = {}
        dead = []
        for row in beats:
            beat, since = self._seen.get(row.process_id, (row.beat, now))
            if beat != row.beat:
                beat, since = row.beat, now
            fresh[row.process_id] = (beat, since)
            if now - since >= row.lease_ttl_s:
                dead.append(row.process_id)
        self._seen = fresh
        return dead
