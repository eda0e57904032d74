"""The tier that processes share, as a caller meets it: never slow, never in the way.

Look-ups of many callers travel in one query, and one that does not come back within PATIENCE_S is a miss; after that,
and after any failure, nobody asks for REST_S. Writes go behind, awaited by nobody, and are dropped when the tier is
away or too many are waiting: what is lost is asked of the provider once more.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.hotstate.answers import Answer, AnswerStore, Held
from tollway.record.group_commit import FlushOptions, GroupCommit
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

PATIENCE_S = 0.25
REST_S = 1.0
DRAIN_S = 1.0
BACKLOG_MAX = 1000
VALUE_BYTES_MAX = 1 << 20
_FIND = FlushOptions(pace_s=0.002, patience_s=0.0)
_KEEP = FlushOptions(flights_max=1, pace_s=0.05, patience_s=0.0)


class SharedAnswers:
    """One process' way to the shared tier."""

    def __init__(self, store: AnswerStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._rests_until = float("-inf")
        self._finds: GroupCommit[bytes, Held | None] = GroupCommit(self._find, _FIND)
        self._keeps: GroupCommit[Answer, bool] = GroupCommit(self._keep, _KEEP)

    async def find(self, key: bytes) -> Held | None:
        """What the tier has, within PATIENCE_S; None is a miss, whatever the reason."""
        if self._resting:
            return None
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._finds.put(key)
        except (TimeoutError, DatabaseUnavailable) as error:
            self._rest(error)
        except Exception as error:
            log.failure("cache.broken", error)
            self._rest(error)
        return None

    def keep(self, answer: Answer) -> None:
        """Write it behind the caller's back, or drop it."""
        if self._resting or len(self._keeps) >= BACKLOG_MAX or len(answer.value) > VALUE_BYTES_MAX:
            return
        self._keeps.put(answer).add_done_callback(self._kept)

    async def drain(self) -> None:
        """Wait a moment for what was handed in to be written."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._keeps.drain()

    @property
    def _resting(self) -> bool:
        return self._clock.monotonic() < self._rests_until

    def _rest(self, error: Exception) -> None:
        if not self._resting:
            log.warning("cache.shared_away", error=str(error) or type(error).__name__)
        self._rests_until = self._clock.monotonic() + REST_S

    def _kept(self, future: "asyncio.Future[bool]") -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, Exception):
            self._rest(error)

    async def _find(self, keys: Sequence[bytes]) -> list[Held | None]:
        found = await self._store.find(keys)
        return [found.get(key) for key in keys]

    async def _keep(self, answers: Sequence[Answer]) -> list[bool]:
        await self._store.keep(answers)
        return [True] * len(answers)
