"""The guard of budgets in one process: calls reserve in slices of money that the process leased; no round trip a call.

    reserve ─▶ free in the slice of every budget that covers the caller? ─▶ held
                 └─ else wait, the interactive lane first ─▶ lease ─▶ held, or exhausted, or still busy

Slices are leased from the record: at once when a call finds too little, about once a second while any is held, never
when nothing was used for a while. A slice holds only as long as its last lease: a process that stood still past that
may have been taken for dead.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tollway.domain.budgets import Budget
from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable, LlmError
from tollway.domain.llm import Caller
from tollway.record.budget_leases import BudgetLeases
from tollway.spend.budgets import NOTHING_HELD, Hold, Standing
from tollway.spend.ladder import Account, standing_of
from tollway.spend.leasing import Leasing
from tollway.spend.pots import Pot, Pots
from tollway.spend.refusals import busy, exhausted
from tollway.spend.slices import Wants
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

INTERACTIVE = "interactive"
PACE_S = 0.05
PACE_MAX_S = 0.3
LEASING_SHARE = 1 / 3
"""Of its time, what a process leases at most: with a thousand budgets in use a lease takes a tenth of a second."""
RENEW_S = 1.0
AWAY_S = 0.3
FRESH_S = 1.0
CLOSE_S = 2.0
STALE_S = 3.0
LOOK_S = 2.0
PATIENCE_MAX_S = 3600.0


async def _nothing_under_way() -> None:
    """Every call that reserved has its intent on record."""


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """How long slices hold beyond their last lease (seconds; below the lease of the process' own row).

    `on_exhausted` hears of accounts that cannot pay, and what was
    asked of them in vain.
    """

    valid_s: float = 7.0
    on_exhausted: Callable[[int, int], Awaitable[None]] | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that waits for money."""

    caller: Caller
    nano: int
    inner: bool
    pots: tuple[Pot, ...]
    future: "asyncio.Future[Hold]"


class BudgetGuard:
    """Implements `Budgets`. Budgets and the process' incarnation (0: none just now) are told at `start`."""

    def __init__(self, leases: BudgetLeases, clock: Clock, options: GuardOptions | None = None) -> None:
        self._clock = clock
        self._options = options or GuardOptions()
        self._pots = Pots()
        self._leasing = Leasing(leases, clock, self._options.valid_s)
        self._budgets: Callable[[], Mapping[str, Sequence[Budget]]] = dict
        self._process: Callable[[], int] = int
        self._settled: Callable[[], Awaitable[None]] = _nothing_under_way
        self._inner: deque[_Waiter] = deque()
        self._others: deque[_Waiter] = deque()
        self._served: set[_Waiter] = set()
        self._all_woke = asyncio.Event()
        self._all_woke.set()
        self._short: set[Pot] = set()
        self._version = 0
        self._away: DatabaseUnavailable | None = None
        self._serving = False
        self._pause_s = PACE_S
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(
        self,
        process: Callable[[], int],
        budgets: Callable[[], Mapping[str, Sequence[Budget]]],
        settled: Callable[[], Awaitable[None]] = _nothing_under_way,
    ) -> None:
        """Begin to lease; a second start is nothing. `changed` tells when there are others.

        `settled` returns when all intents handed in before are on record, or refused: then, after a change, no call is
        on its way any more that reserved by the budgets of before.
        """
        if self._task is None:
            self._process, self._budgets, self._settled = process, budgets, settled
            self._pots.take(budgets())
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="budgets")

    async def stop(self) -> None:
        """Lease no more, and close the slices; only when all outcomes are written. A second stop is nothing."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for waiter in (*self._inner, *self._others):
            if not waiter.future.done():
                waiter.future.set_exception(DatabaseUnavailable("the process is stopping"))
        with suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._leasing.close()

    def changed(self, version: int) -> None:
        """The budgets were read anew, at this version of the settings."""
        if version > self._version:
            self._version = version
            self._pots.take(self._budgets())
            for waiter in self._waiting():
                waiter.pots = self._pots.of(waiter.caller)
            self._serve()
            self._wake.set()

    def registered(self) -> None:
        """The process may be registered anew: then its row does not say yet which budgets it has read."""
        if self._process() != self._leasing.process:
            self._wake.set()

    def standing(self, caller: Caller) -> Standing:
        """The rungs on which a caller's calls stand, as its accounts stood at their last lease."""
        return self._pots.covering(caller).stand(self._judge_rungs)

    async def look(self, caller: Caller) -> Standing:
        """The same, after a lease where an account has not been leased for a while."""
        now, at = self._clock.monotonic(), self._clock.now()
        for pot in self._pots.covering(caller).laddered:
            figures = pot.figures
            if figures is None or at >= pot.ends or now - figures.at > STALE_S:
                break
        else:
            return self.standing(caller)
        waiter = _Waiter(
            caller, 0, caller.lane == INTERACTIVE, self._pots.of(caller), asyncio.get_running_loop().create_future()
        )
        with suppress(LlmError, DatabaseUnavailable):
            await self._wait(waiter, LOOK_S)
        return self.standing(caller)

    async def reserve(self, caller: Caller, nano: int, patience_s: float) -> Hold:
        """Reserve in every budget that covers the caller, or in none. Raises LlmError, DatabaseUnavailable."""
        pots = self._pots.of(caller)
        if not pots or nano <= 0:
            return NOTHING_HELD
        inner = caller.lane == INTERACTIVE
        now = self._clock.monotonic()
        if self._leasing.holds(self._process(), now):
            at = self._clock.now()
            for pot in pots:
                if at >= pot.ends or (pot.short_inner if inner else pot.short) or not pot.affords(nano, inner=inner):
                    break
            else:
                return self._held(pots, nano, now)
        refusal = self._known_refusal(pots, nano, inner, now)
        if refusal is not None:
            raise refusal
        return await self._wait(
            _Waiter(caller, nano, inner, pots, asyncio.get_running_loop().create_future()), patience_s
        )

    def settle(self, hold: Hold, spent_nano: int) -> None:
        """The call cost this, and that is on record."""
        if hold.accounts and self._leasing.settle(hold, spent_nano):
            self._wake.set()
        if (self._inner or self._others) and not self._serving:
            self._serving = True
            asyncio.get_running_loop().call_soon(self._serve)

    def strand(self, hold: Hold) -> None:
        """The call was given up without an outcome: what it had reserved counts as spent."""
        if hold.accounts:
            self._leasing.strand(hold)

    def _judge_rungs(self, pots: Sequence[Pot]) -> Standing:
        return standing_of([_account(pot) for pot in pots], self._clock.now())

    def _held(self, pots: tuple[Pot, ...], nano: int, now: float) -> Hold:
        low = False
        for pot in pots:
            slice_ = pot.slice
            assert slice_ is not None, "it affords the call"
            slice_.reserve(nano, now)
            low |= slice_.free < slice_.low
        if low:
            self._wake.set()
        return Hold(nano, tuple([pot.account for pot in pots]), self._leasing.process)

    def _known_refusal(self, pots: Iterable[Pot], nano: int, inner: bool, now: float) -> LlmError | None:
        """What the last lease has told already, so that a crowd need not ask again."""
        at = self._clock.now()
        for pot in pots:
            figures = pot.figures
            fresh = figures is not None and now - figures.at < FRESH_S and at < pot.ends
            if figures is not None and fresh and not figures.covers(nano, inner=inner):
                return exhausted(pot.budget, pot.until, at)
        return None

    async def _wait(self, waiter: _Waiter, patience_s: float) -> Hold:
        (self._inner if waiter.inner else self._others).append(waiter)
        self._wake.set()
        future = waiter.future
        try:
            await asyncio.wait((future,), timeout=min(patience_s, PATIENCE_MAX_S))
        except asyncio.CancelledError:
            if not future.cancel() and future.exception() is None:
                self.settle(future.result(), 0)
            raise
        finally:
            self._served.discard(waiter)
            if not self._served:
                self._all_woke.set()
        if future.done():
            return future.result()
        future.cancel()
        self._serve()
        if self._away is not None:
            raise DatabaseUnavailable(str(self._away))
        short = [pot for pot in waiter.pots if not pot.affords(waiter.nano, inner=waiter.inner)]
        raise busy((short or waiter.pots)[0].budget)

    def _waiting(self) -> list[_Waiter]:
        """Who waits, in the order in which they are served."""
        return [waiter for waiter in (*self._inner, *self._others) if not waiter.future.done()]

    async def _keep(self) -> None:
        began_at = float("-inf")
        while True:
            if self._at_rest:
                await self._wake.wait()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._rest_s()):
                        await self._wake.wait()
            pace_s = max(PACE_S, min(self._leasing.took_s / LEASING_SHARE, RENEW_S))
            pause_s = began_at + (AWAY_S if self._away is not None else pace_s) - self._clock.monotonic()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            self._wake.clear()
            began_at = self._clock.monotonic()
            try:
                await self._round(began_at)
                self._away = None
            except DatabaseUnavailable as error:
                self._away = error
            except Exception as error:
                self._away = DatabaseUnavailable("budgets cannot be leased")
                log.failure("budgets.broken", error)

    @property
    def _at_rest(self) -> bool:
        return not (self._inner or self._others or self._leasing.busy or self._unseen)

    @property
    def _unseen(self) -> bool:
        return self._version > self._leasing.seen

    def _rest_s(self) -> float:
        if self._inner or self._others or self._unseen:
            return self._pause_s
        return PACE_S if self._leasing.hoards else RENEW_S

    async def _round(self, now: float) -> None:
        """Lease once, and serve who waits."""
        process = self._process()
        for pot in self._leasing.bind(process, self._pots):
            pot.slice = None
        if not process:
            return
        if self._unseen:
            version = self._version
            await self._all_woke.wait()  # who was given money of old budgets hands in his intent as he wakes
            await self._settled()
            await self._leasing.see(version)
        waiting = self._waiting()
        answered = await self._leasing.lease(_wants(waiting), now)
        served = self._serve()
        await self._judge(answered)
        self._pause_s = PACE_S if served or not waiting else min(self._pause_s * 1.5, PACE_MAX_S)

    def _serve(self) -> int:
        """Let those who wait reserve, in their order, as far as there is; returns how many could."""
        self._serving = False
        served, now, at = 0, self._clock.monotonic(), self._clock.now()
        may = self._leasing.holds(self._process(), now)
        short: set[Pot] = set()
        short_inner: set[Pot] = set()
        for queue in (self._inner, self._others):
            still: list[_Waiter] = []
            for waiter in queue:
                if waiter.future.done():
                    continue
                missing = [
                    pot
                    for pot in waiter.pots
                    if not may or pot in short or at >= pot.ends or not pot.affords(waiter.nano, inner=waiter.inner)
                ]
                if missing:
                    short.update(missing)
                    still.append(waiter)
                else:
                    waiter.future.set_result(self._held(waiter.pots, waiter.nano, now) if waiter.pots else NOTHING_HELD)
                    self._served.add(waiter)
                    self._all_woke.clear()
                    served += 1
            queue.clear()
            queue.extend(still)
            if queue is self._inner:
                short_inner = set(short)
        for pot in self._short | short:
            pot.short, pot.short_inner = pot in short, pot in short_inner
        self._short = short
        return served

    async def _judge(self, answered: set[Pot]) -> None:
        """Tell those who wait in vain. The lease just answered says what cannot be had any more."""
        at, told = self._clock.now(), {}
        for waiter in self._waiting():
            if not waiter.nano and answered.issuperset(waiter.pots):  # it only wanted to look
                waiter.future.set_result(NOTHING_HELD)
                continue
            for pot in waiter.pots:
                figures = pot.figures if pot in answered else None
                if figures is not None and not figures.covers(waiter.nano, inner=waiter.inner):
                    waiter.future.set_exception(exhausted(pot.budget, pot.until, at))
                    told[pot.account] = waiter.nano
                    break
        for pot in answered:  # on its last rung nobody asks for money any more, and so nobody is refused any
            if pot.budget.has_rungs and pot.figures is not None and not pot.figures.covers(1, inner=True):
                told.setdefault(pot.account, 1)
        if not told:
            return
        self._serve()
        if self._options.on_exhausted is not None:
            for account, nano in told.items():
                await self._options.on_exhausted(account, nano)


def _account(pot: Pot) -> Account:
    """A pot as the ladder looks at it."""
    figures = pot.figures
    if figures is None:
        return Account(pot.budget, 0, pot.until)
    return Account(pot.budget, figures.spent, pot.until, figures.sharers)


def _wants(waiting: Iterable[_Waiter]) -> dict[Pot, Wants]:
    """What those who wait need of each pot.

    Where little is left they take one budget after another, in their order: else two processes might each hold what
    the other waits for.
    """
    wanted: dict[Pot, Wants] = {}
    for waiter in waiting:
        for pot in waiter.pots:
            wanted.setdefault(pot, Wants()).add(waiter.nano, inner=waiter.inner)
            short = pot.slice is not None and pot.slice.near and not pot.affords(waiter.nano, inner=waiter.inner)
            if short and waiter.nano:  # who only looks takes none
                break
    return wanted
