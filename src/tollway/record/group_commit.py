"""Group commit without timers: a flush starts when the previous one returns, and takes all that gathered meanwhile.

At most `flights_max` flushes are under way and each takes at most `rows_max` rows; every caller awaits its own result.
A batch that the database refuses for a bad value (SQLSTATE 22/23) is halved until the bad row stands alone and only
its caller is told. A lost connection resends the whole batch until `patience_s` is over, so `write` must be safe to
repeat: rows carry ids made by the client. So does a deadlock lost, or whatever else `Database` calls unavailable.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import asyncpg

from tollway.domain.errors import DatabaseUnavailable

Row = TypeVar("Row")
Result = TypeVar("Result")

_RESEND_FIRST_S = 0.05
_RESEND_MAX_S = 1.0
_FLUSH_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class FlushOptions:
    """Bounds of a group commit.

    While callers come in crowds (the last flush had company), flushes start `pace_s` apart, so that each takes more of
    them: a flush costs Postgres and Python as much as a dozen rows. A lone caller never waits.
    """

    rows_max: int = 200
    flights_max: int = 2
    pace_s: float = 0.006
    patience_s: float = 5.0


class GroupCommit(Generic[Row, Result]):
    """Gathers rows and writes them together. `write` returns one result (or an exception) a row, in order."""

    def __init__(
        self,
        write: Callable[[Sequence[Row]], Awaitable[Sequence[Result | Exception]]],
        options: FlushOptions | None = None,
        on_flush: Callable[[int, float], None] | None = None,
    ) -> None:
        """`on_flush` hears of every flush: its rows, and the seconds until all had their answer."""
        self._write = write
        self._on_flush = on_flush
        self._options = options or FlushOptions()
        self._waiting: deque[tuple[Row, asyncio.Future[Result]]] = deque()
        self._flights: set[asyncio.Task[None]] = set()
        self._aboard: dict[int, list[tuple[Row, asyncio.Future[Result]]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began_at = 0.0
        self._crowd = False
        self._flush_s = 0.0
        self.flushes = 0
        self.rows = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def wait_s(self) -> float:
        """How long a row handed in now would wait for its answer, by the last flushes and what stands before it.

        A flush that hangs counts as long as it has lasted.
        """
        if not self._flights or self._loop is None:
            return 0.0
        rounds = 1 + len(self._waiting) // (self._options.rows_max * self._options.flights_max)
        return max(rounds * self._flush_s, self._loop.time() - self._began_at)

    def put(self, row: Row) -> "asyncio.Future[Result]":
        """Hand in a row; the future ends when it is durable, or raises DatabaseUnavailable or the row's own fault."""
        loop = self._loop
        if loop is None:  # asked once: each look at the running loop is a system call on Python 3.11
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((row, future))
        if len(self._flights) < self._options.flights_max:
            self._take_off(loop)
        return future

    async def drain(self) -> None:
        """Wait until all that was handed in is written or refused."""
        while self._flights:
            await asyncio.wait(list(self._flights))

    async def settled(self) -> None:
        """Wait until all that was handed in by now is written or refused, whatever is handed in meanwhile."""
        futures = [
            future for batch in (*self._aboard.values(), self._waiting) for _, future in batch if not future.done()
        ]
        if futures:
            await asyncio.wait(futures)

    def _take_off(self, loop: asyncio.AbstractEventLoop) -> None:
        task = loop.create_task(self._flight())
        self._flights.add(task)
        task.add_done_callback(self._flights.discard)

    async def _flight(self) -> None:
        # Let everything that is ready in this turn of the loop come aboard, and what that wakes: a run that returns
        # after its last step takes the step's outcome along in its end, which spares a write.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting, options, loop = self._waiting, self._options, asyncio.get_running_loop()
        while waiting:
            pause_s = self._began_at + options.pace_s - loop.time()
            if pause_s > 0 and self._crowd and len(waiting) < options.rows_max:
                await asyncio.sleep(pause_s)
                if not waiting:
                    break
            began_at = self._began_at = loop.time()
            self._crowd = len(waiting) > 1
            batch = [waiting.popleft() for _ in range(min(len(waiting), options.rows_max))]
            self.flushes += 1
            self.rows += len(batch)
            self._aboard[id(batch)] = batch
            try:
                await self._flush(batch)
            finally:
                del self._aboard[id(batch)]
            took_s = loop.time() - began_at
            self._flush_s += _FLUSH_WEIGHT * (took_s - self._flush_s)
            if self._on_flush is not None:
                self._on_flush(len(batch), took_s)
        # At once: until a done callback ran, a row handed in would count on a flight that looks at nothing any more.
        task = asyncio.current_task()
        if task is not None:
            self._flights.discard(task)

    async def _flush(self, batch: list[tuple[Row, "asyncio.Future[Result]"]]) -> None:
        try:
            results = await self._persist([row for row, _ in batch])
        except asyncpg.PostgresError as error:
            if error.sqlstate is not None and error.sqlstate[:2] in ("22", "23") and len(batch) > 1:
                middle = len(batch) // 2
                await self._flush(batch[:middle])
                await self._flush(batch[middle:])
                return
            self._refuse(batch, error)
        except Exception as error:
            self._refuse(batch, error)
        except asyncio.CancelledError:
            self._refuse(batch, DatabaseUnavailable("the process is stopping"))
            raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    async def _persist(self, rows: list[Row]) -> Sequence[Result | Exception]:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._options.patience_s
        pause_s = _RESEND_FIRST_S
        while True:
            try:
                return await self._write(rows)
            except DatabaseUnavailable:
                if loop.time() + pause_s > give_up_at:
                    raise
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
                pause_s = min(pause_s * 2, _RESEND_MAX_S)

    @staticmethod
    def _refuse(batch: list[tuple[Row, "asyncio.Future[Result]"]], error: Exception) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)
