"""The keeper: one elected process that opens gates, expires, reaps the dead, keeps partitions and the cache.

Every tick is safe to repeat and safe to run twice at once; the election only spares the work.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.hotstate.answers import AnswerStore
from tollway.hotstate.broadcast import Broadcast
from tollway.llm.breakers.news import DEPENDENCIES, read_told
from tollway.queue.beats import Beat, BeatWatch
from tollway.queue.reopening import Reopening
from tollway.record.cancel import Ended, tell_cancelled
from tollway.record.upkeep import Upkeep
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

TERM_MAX_S = 10.0
TERM_LOOKS = 7
ORPHANS_LOOKS = 10
PARTITIONS_EVERY_S = 3600.0
ANSWERS_EVERY_S = 60.0
SLEEP_MIN_S = 0.01


@dataclass(frozen=True, slots=True)
class KeeperOptions:
    """How often it looks at beats and due times (seconds), and how long history is kept (days by noun; 0: for ever).

    Cached answers that all processes share may take `answers_bytes_max`.
    """

    look_every_s: float
    keep_days: dict[str, int]
    answers_bytes_max: int


class Duty(Protocol):
    """Something the elected keeper does again and again; safe to repeat, and to be done by two at once."""

    name: str

    async def look(self) -> float:
        """Do what there is to do; returns the seconds until the next look. Raises DatabaseUnavailable."""


class Keeper:
    """Keeps until stopped."""

    def __init__(
        self,
        upkeep: Upkeep,
        answers: AnswerStore,
        broadcast: Broadcast,
        clock: Clock,
        options: KeeperOptions,
        duties: Sequence[Duty] = (),
    ) -> None:
        self._upkeep = upkeep
        self._answers = answers
        self._broadcast = broadcast
        self._clock = clock
        self._options = options
        self._duties = duties
        self._watch = BeatWatch(gap_max_s=3 * options.look_every_s)
        self._reopening = Reopening()
        self._elected_until = 0.0
        self._orphans_at = 0.0
        self._term_s = min(TERM_MAX_S, TERM_LOOKS * options.look_every_s)
        self._partitions_at = 0.0
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin; a second start is nothing."""
        if self._tasks:
            return
        loop = asyncio.get_running_loop()
        self._broadcast.subscribe("due", lambda _: self._wake.set())
        self._broadcast.subscribe(DEPENDENCIES.channel, self._heard_of_dependency)
        self._tasks = [
            loop.create_task(self._forever(self._look_at_beats, self._options.look_every_s), name="beats"),
            loop.create_task(self._keep_times(), name="times"),
            loop.create_task(self._keep_answers(), name="answers"),
            *(loop.create_task(self._keep_on(duty), name=duty.name) for duty in self._duties),
        ]

    async def stop(self) -> None:
        """Stop and resign; a second stop is nothing."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            with suppress(DatabaseUnavailable):
                await self._upkeep.resign()

    @property
    def in_office(self) -> bool:
        """Whether this keeper is the elected one, as far as it knows."""
        return self._clock.monotonic() < self._elected_until

    async def _forever(self, look: "object", every_s: float) -> None:
        while True:
            try:
                if await self._elected():
                    await look()  # type: ignore[operator]
            except DatabaseUnavailable as error:
                log.warning("keeper.unreachable", error=str(error))
            except Exception as error:
                log.failure("keeper.broken", error)
            await asyncio.sleep(every_s * random.uniform(0.9, 1.1))

    async def _keep_on(self, duty: Duty) -> None:
        while True:
            rest_s = self._options.look_every_s
            try:
                if await self._elected():
                    rest_s = await duty.look()
            except DatabaseUnavailable as error:
                log.warning("keeper.unreachable", duty=duty.name, error=str(error))
            except Exception as error:
                log.failure("keeper.broken", error)
            await asyncio.sleep(rest_s)

    async def _elected(self) -> bool:
        now = self._clock.monotonic()
        if now > self._elected_until - self._term_s / 2:
            self._elected_until = now + self._term_s if await self._upkeep.elected(self._term_s) else 0.0
        return now < self._elected_until

    async def _look_at_beats(self) -> None:
        processes = await self._upkeep.beats()
        roles = {process_id: role for process_id, role, _, _ in processes}
        beats = [Beat(process_id, beat, ttl_s) for process_id, _, beat, ttl_s in processes]
        for process_id in self._watch.look(beats, self._clock.monotonic()):
            await self._reap(process_id, roles[process_id])
        now = self._clock.monotonic()
        if now >= self._orphans_at:
            self._orphans_at = now + ORPHANS_LOOKS * self._options.look_every_s
            for process_id in await self._upkeep.orphans():
                await self._reap(process_id, "worker")
            await self._end_lost_calls()
            await self._upkeep.mend_budgets()
            await self._bury_poison()  # left by a keeper that died between taking a run back and ending it
            tell_cancelled(self._broadcast, await self._upkeep.mend_keys())
            if await self._upkeep.mend_gates():
                self._wake.set()
        await self._unstick()
        if now >= self._partitions_at:
            self._partitions_at = now + PARTITIONS_EVERY_S
            await self._keep_partitions()

    async def _reap(self, process_id: int, role: str) -> None:
        if role != "worker":
            await self._upkeep.forget(process_id)
            await self._upkeep.close_budgets(process_id)
            await self._end_lost_calls()
            return
        taken = await self._upkeep.reap(process_id)
        await self._upkeep.close_budgets(process_id)
        log.warning("worker.lost", worker=process_id, runs=len(taken))
        for lane in {lane for _, lane, _ in taken}:
            self._broadcast.publish("queue", lane)
        for run_id, _, _ in taken:
            self._broadcast.publish("run", str(run_id))
        if any(lost >= 2 for _, _, lost in taken):
            self._broadcast.publish("alone", "")
        await self._bury_poison()

    async def _end_lost_calls(self) -> None:
        calls = await self._upkeep.end_lost_wire_calls()
        if calls:
            log.warning("wire_calls.lost", calls=calls)

    async def _unstick(self) -> None:
        stuck = await self._upkeep.stuck()
        if stuck.full_lines:
            await self._open_full()
        if stuck.broke:
            await self._mend_broke()
        if stuck.cancelled:
            self._tell_ended(await self._upkeep.end_cancelled())

    async def _open_full(self) -> None:
        """Lines that are full though their tenant has room: nobody told that its runs left.

        They were a dead worker's, or one's that was cut off, or were claimed before their tenant had a cap.
        """
        for lane in await self._upkeep.open_full():
            self._broadcast.publish("queue", lane)

    async def _mend_broke(self) -> None:
        """Lines that lack money: their period may be over, or money may have come in."""
        mended = await self._upkeep.mend_broke()
        for lane in mended.lanes:
            self._broadcast.publish("queue", lane)
        if mended.opened:
            self._broadcast.publish("budget", "")
            self._wake.set()

    async def _bury_poison(self) -> None:
        buried = await self._upkeep.bury_poison()
        for run_id in buried.ids:
            log.warning("run.poison", run_id=str(run_id))
        self._tell_ended(buried)

    def _tell_ended(self, ended: Ended) -> None:
        for run_id in ended.ids:
            self._broadcast.publish("run", str(run_id))
        for lane in ended.lanes:
            self._broadcast.publish("queue", lane)
        if ended.ids:
            self._broadcast.publish("webhook", "")

    async def _keep_partitions(self) -> None:
        await self._upkeep.make_partitions()
        gone = await self._upkeep.drop_partitions(self._options.keep_days)
        if gone:
            log.info("partitions.dropped", partitions=",".join(gone))
        await self._upkeep.forget_old()

    async def _keep_answers(self) -> None:
        await asyncio.sleep(
            ANSWERS_EVERY_S * random.uniform(0.5, 1.0)
        )  # a restart finds no more to sweep than a minute
        await self._forever(self._sweep, ANSWERS_EVERY_S)

    async def _sweep(self) -> None:
        await self._answers.sweep(self._options.answers_bytes_max)
        await self._upkeep.sweep_quotas()

    async def _keep_times(self) -> None:
        """Open gates and expire runs when they are due: sleep until then, or until news of an earlier moment."""
        while True:
            looks = 4 if self._broadcast.connected else 2  # news tells of what comes sooner
            rest_s = looks * self._options.look_every_s * random.uniform(0.9, 1.1)
            try:
                if await self._elected():
                    rest_s = min(rest_s, await self._pass_time())
            except DatabaseUnavailable:
                rest_s = 1.0
            except Exception as error:
                log.failure("keeper.broken", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(SLEEP_MIN_S, rest_s)):
                    await self._wake.wait()
            self._wake.clear()

    async def _pass_time(self) -> float:
        """Do what is due; returns the seconds until the next."""
        due = await self._upkeep.due()
        now = self._clock.now()
        openings = self._reopening.openings(due.opens, now)
        if openings:
            for lane in await self._upkeep.open_gates(openings):
                self._broadcast.publish("queue", lane)
            tell_cancelled(self._broadcast, await self._upkeep.settle_due_keys())
            return 0.0
        if due.expires_at is not None and due.expires_at <= now:
            self._tell_ended(await self._upkeep.expire())
            return 0.0
        moments = (self._reopening.next_at(due.opens, now), due.expires_at)
        return min((at - now for at in moments if at is not None), default=60.0)

    def _heard_of_dependency(self, message: str) -> None:
        told = read_told(message)
        if told is not None and told.state == "open":
            self._reopening.shut(told.name, told.until)
        elif told is not None and told.state == "ramping":
            self._reopening.well(told.name, self._clock.now())
            self._wake.set()
