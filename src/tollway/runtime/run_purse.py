"""A run's own budget, `budget_usd`: each of its calls reserves its worst case before it is made (P4).

    reserve ─▶ spent + reserved + worst case within the limit? ─▶ reserved
                 └─ else wait for the run's other calls, which seldom cost what they reserved ─▶ reserved, or refused

Who waits is served in turn. Nobody waits for money that only comes back when he has done: that of streams and of tasks,
within which a run may call, counts as spent until they end.
"""

import asyncio
from collections import deque

from tollway.domain.errors import LlmError
from tollway.spend.refusals import beyond_run

PATIENCE_S = 300.0


class RunPurse:
    """The money of one attempt; nano-dollars, `limit_nano` None without a limit. What may have been billed is spent."""

    def __init__(self, limit_nano: int | None) -> None:
        self.spent_nano = 0
        self._limit = limit_nano
        self.reserved_nano = 0
        self._firm = 0
        self._waiting: deque[tuple[int, bool, asyncio.Future[None]]] = deque()

    async def reserve(self, nano: int, *, firm: bool = False) -> None:
        """Reserve the worst case of a step until `give_back`. Raises LlmError `budget_exhausted`, final.

        `firm` is what others of the run do not wait for.
        """
        if self._limit is None or not nano:
            return
        if self._fits(nano) and not self._waiting:
            self._take(nano, firm)
            return
        if self._hopeless(nano):
            raise self._refusal(nano)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((nano, firm, waiter))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give_back(nano, firm=firm)
            waiter.cancel()
            asyncio.get_running_loop().call_soon(self._serve)
            if isinstance(error, TimeoutError):
                raise self._refusal(nano) from None
            raise

    def give_back(self, nano: int, *, firm: bool = False) -> None:
        """What was reserved is not needed any more; `spend` tells what became of it, before anything is awaited."""
        if self._limit is None or not nano:
            return
        self.reserved_nano -= nano
        self._firm -= nano if firm else 0
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._serve)

    def spend(self, nano: int) -> None:
        """A step cost this, or may have."""
        self.spent_nano += nano

    def _fits(self, nano: int) -> bool:
        return self._limit is None or self.spent_nano + self.reserved_nano + nano <= self._limit

    def _hopeless(self, nano: int) -> bool:
        """Whether no call that is under way could give back what is missing."""
        return self._limit is not None and self.spent_nano + self._firm + nano > self._limit

    def _take(self, nano: int, firm: bool) -> None:
        self.reserved_nano += nano
        self._firm += nano if firm else 0

    def _serve(self) -> None:
        while self._waiting:
            nano, firm, waiter = self._waiting[0]
            if waiter.done():
                self._waiting.popleft()
            elif self._fits(nano):
                self._waiting.popleft()
                self._take(nano, firm)
                waiter.set_result(None)
            elif self._hopeless(nano):
                self._waiting.popleft()
                waiter.set_exception(self._refusal(nano))
            else:
                return

    def _refusal(self, nano: int) -> LlmError:
        return beyond_run(self._limit or 0, nano, self.spent_nano)
