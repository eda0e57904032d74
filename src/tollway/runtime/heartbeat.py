"""A worker's heartbeat: in a thread with a connection of its own, so that an agent that blocks the loop costs no lease.

What a beat tells is gathered in the loop, for no other thread may look at what lives there; while the loop is blocked,
the same is told again. The thread also watches the loop: one that does not turn for a second is named with the agent
and its stack, and one stuck past `loop_block_max_s` is given up with the whole process, whose runs are then claimed
elsewhere.
"""

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import DatabaseUnavailable
from tollway.record.database import Database, DatabaseOptions
from tollway.record.processes import ProcessGone, beat_process
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

LOOK_EVERY_S = 0.25
BLOCKED_AFTER_S = 1.0
FACTS_PATIENCE_S = 0.25
EXIT_BLOCKED = 70


@dataclass(frozen=True, slots=True)
class HeartbeatOptions:
    """Seconds between beats, and how long the loop may stand still before the process is given up."""

    heartbeat_s: float
    loop_block_max_s: float


class Heartbeat:
    """Beats for one process until stopped; `on_gone` is called in the loop when its row was taken away.

    `on_lag` hears in the loop, some four times a second, how many seconds late it ran; who called `on_settings` before
    the start hears, in the loop as well, which version of the settings each beat found.
    """

    def __init__(
        self,
        database: DatabaseOptions,
        process_id: int,
        options: HeartbeatOptions,
        facts: Callable[[], dict[str, Any]],
        on_gone: Callable[[], None],
        on_lag: Callable[[float], None],
    ) -> None:
        self._database = database
        self._process_id = process_id
        self._options = options
        self._facts = facts
        self._on_gone = on_gone
        self._on_lag = on_lag
        self._loop = asyncio.get_running_loop()
        self._main_thread = threading.get_ident()
        self._stop = threading.Event()
        self._beat_now = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._turned_at = self._loop.time()
        self._asked_at = self._turned_at
        self._named = False
        self._on_settings: list[Callable[[int], None]] = []
        self._told: dict[str, Any] = {}
        self.stopping = False

    def on_settings(self, listener: Callable[[int], None]) -> None:
        """Call `listener` with the settings' version after each beat."""
        self._on_settings.append(listener)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Stop beating and wait for the thread; a second stop is nothing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def soon(self) -> None:
        """Beat at once: the facts have changed."""
        self._beat_now.set()

    def _run(self) -> None:
        asyncio.run(self._beat_until_stopped())

    async def _beat_until_stopped(self) -> None:
        clock = AnchoredClock()
        database: Database | None = None
        due = 0.0
        while not self._stop.is_set():
            self._watch_loop()
            if clock.monotonic() >= due or self._beat_now.is_set():
                self._beat_now.clear()
                due = clock.monotonic() + self._options.heartbeat_s
                try:
                    if database is None:
                        database = Database(self._database, clock)
                        await database.start()
                    await self._gather()
                    async with asyncio.timeout(self._options.heartbeat_s):
                        await self._beat(database)
                except (DatabaseUnavailable, TimeoutError) as error:
                    due = clock.monotonic() + min(0.5, self._options.heartbeat_s)
                    if not isinstance(error, ProcessGone):
                        log.warning("heartbeat.unreachable", error=str(error))
            await asyncio.sleep(min(LOOK_EVERY_S, self._options.heartbeat_s / 4))
        if database is not None:
            await database.stop()

    async def _beat(self, database: Database) -> None:
        try:
            version = await beat_process(database, self._process_id, 0, self._told, stopping=self.stopping)
        except ProcessGone:
            self._stop.set()
            self._loop.call_soon_threadsafe(self._on_gone)
            return
        for listener in self._on_settings:
            self._loop.call_soon_threadsafe(listener, version)

    async def _gather(self) -> None:
        """Have the loop gather the facts, but do not wait for one that is blocked."""
        gathered, here = asyncio.Event(), asyncio.get_running_loop()

        def gather() -> None:
            try:
                self._told = self._facts()
            except Exception as error:
                log.failure("heartbeat.facts", error)
            with suppress(RuntimeError):  # the thread may have ended meanwhile
                here.call_soon_threadsafe(gathered.set)

        self._loop.call_soon_threadsafe(gather)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(FACTS_PATIENCE_S, self._options.heartbeat_s / 4)):
                await gathered.wait()

    def _watch_loop(self) -> None:
        """Ask the loop to turn, and see how long ago it last did."""
        now = self._loop.time()
        if self._turned_at >= self._asked_at:
            self._asked_at = now
            self._named = False
            self._loop.call_soon_threadsafe(self._turned)
            return
        blocked_s = now - self._asked_at
        if blocked_s >= BLOCKED_AFTER_S and not self._named:
            self._named = True
            log.warning("loop.blocked", blocked_s=round(blocked_s, 1), task=self._task_name(), stack=self._stack())
        if blocked_s >= self._options.loop_block_max_s:
            log.error("loop.given_up", blocked_s=round(blocked_s, 1), task=self._task_name(), stack=self._stack())
            os._exit(EXIT_BLOCKED)

    def _turned(self) -> None:
        self._turned_at = self._loop.time()
        self._on_lag(self._turned_at - self._asked_at)

    def _task_name(self) -> str:
        task = asyncio.current_task(self._loop)
        return task.get_name() if task is not None else "(no task)"

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main_thread)
        lines = traceback.format_stack(frame)[-4:] if frame is not None else []
        return " | ".join(line.strip().replace("\n", " ") for line in lines)
