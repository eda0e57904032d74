"""The keeper's counting of usage: every second while there is something new, else a cheap look now and then.

It takes at most a twenty-fifth of one connection's time, and a tenth when it is behind: the more a pass has to do, the
longer the rest before the next, and the more of what it counts falls into the same sums.
"""

import random

from tollway.domain.clock import Clock
from tollway.record.rollup import Rollup

REST_S = 1.0
REST_IDLE_S = 5.0
REST_SHARE, REST_SHARE_BEHIND = 24.0, 9.0
SUMMARIZE_EVERY_S = 30.0
SUMMARIZE_ROWS = 10_000
"""Each pass reads the rows that no summary is told of yet."""


class UsageRollup:
    """A duty of the keeper."""

    name = "usage"

    def __init__(self, rollup: Rollup, clock: Clock) -> None:
        self._rollup = rollup
        self._clock = clock
        self._busy = True
        self._rest_s = REST_S
        self._summarize_at = 0.0
        self._unsummarized = 0

    async def look(self) -> float:
        """Count what is new; returns the seconds until the next look. Raises DatabaseUnavailable."""
        if not self._busy and not await self._rollup.awaits():
            self._rest_s = min(REST_IDLE_S, self._rest_s * 1.5)
            return self._rest_s * random.uniform(0.9, 1.1)
        began = self._clock.monotonic()
        counted = await self._rollup.count()
        ended = self._clock.monotonic()
        self._busy, self._rest_s = counted.anything, REST_S
        self._unsummarized += counted.entries + counted.runs
        if self._unsummarized >= SUMMARIZE_ROWS or (self._unsummarized and ended >= self._summarize_at):
            self._summarize_at, self._unsummarized = ended + SUMMARIZE_EVERY_S, 0
            await self._rollup.summarize()
        rest_s, share = (0.0, REST_SHARE_BEHIND) if counted.behind else (REST_S, REST_SHARE)
        return max(rest_s, share * (ended - began)) * random.uniform(0.9, 1.1)
