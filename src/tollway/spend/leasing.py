"""The leases of one process: the slices it holds, and the call by which it renews, asks and gives back all of them."""

import asyncio
from collections.abc import Iterable, Mapping
from zoneinfo import ZoneInfoNotFoundError

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.record.budget_leases import Answer, Ask, BudgetLeases
from tollway.record.processes import ProcessGone
from tollway.spend.budgets import Hold
from tollway.spend.pots import Figures, Pot
from tollway.spend.slices import NO_WANTS, Slice, Wants
from tollway.telemetry.logs import get_logger

log = get_logger(__name__)

OPEN_S = 0.25
"""How long the slices of others wait for an account to be opened, which may have to add up what was spent before."""

_Opening = asyncio.Task[tuple[int, bool] | None]


class Leasing:
    """Holds slices, by account, for the incarnation `process`; `seen` is the version of budgets it has told.

    `took_s` is how long the last lease took.
    """

    def __init__(self, leases: BudgetLeases, clock: Clock, valid_s: float) -> None:
        self.process = 0
        self.seen = -1
        self.took_s = 0.0
        self._leases = leases
        self._clock = clock
        self._valid_s = valid_s
        self._valid_until = float("-inf")
        self._slices: dict[int, Slice] = {}
        self._pots: dict[int, Pot] = {}
        self._stranded: dict[int, int] = {}
        self._doubted: dict[int, int] = {}
        self._openings: dict[tuple[int, float], _Opening] = {}
        self._zoneless: set[int] = set()
        self._turn = 0
        self._gone = False
        self._unsure = False

    @property
    def busy(self) -> bool:
        """Whether there is anything to renew, to give back or to tell."""
        return bool(self._slices or self._unsure or self._stranded)

    @property
    def hoards(self) -> bool:
        """Whether it holds money that others need."""
        return any(slice_.near and slice_.free > 0 for slice_ in self._slices.values())

    def holds(self, process: int, now: float) -> bool:
        """Whether the slices are still this incarnation's."""
        return process == self.process and now < self._valid_until

    def bind(self, process: int, pots: Iterable[Pot]) -> list[Pot]:
        """Lease for this incarnation from now on. Returns the pots that lost their slices with an earlier one."""
        if process == self.process and not self._gone:
            return []
        if process == self.process:  # taken away; the next incarnation is not known yet
            raise ProcessGone(f"process {process} is no longer on record")
        self.process, self._gone = process, False
        self.seen, self._turn, self._unsure = -1, 0, False
        self._valid_until = float("-inf")
        self._slices, self._pots, self._stranded, self._doubted = {}, {}, {}, {}
        return list(pots)

    def settle(self, hold: Hold, spent_nano: int) -> bool:
        """A call is over; true when others wait for what it leaves."""
        if hold.process != self.process:
            return False
        near = False
        for account in hold.accounts:
            slice_ = self._slices.get(account)
            if slice_ is not None:
                slice_.settle(hold.nano, spent_nano)
                near |= slice_.near
        return near

    def strand(self, hold: Hold) -> None:
        """A call was given up: the record is told with the next lease."""
        if hold.process != self.process:
            return
        for account in hold.accounts:
            if account in self._slices:
                self._slices[account].settle(hold.nano, hold.nano)
                self._stranded[account] = self._stranded.get(account, 0) + hold.nano

    async def see(self, version: int) -> None:
        """Say that calls reserve in the budgets of this version. Raises DatabaseUnavailable."""
        await self._leases.see(self.process, version)
        self.seen = version

    async def lease(self, wanted: Mapping[Pot, Wants], now: float) -> set[Pot]:
        """One lease of all; returns the pots it has answers for. Raises DatabaseUnavailable, ProcessGone."""
        await self._resolve_doubt()
        wants = {pot.account: pot_wants for pot, pot_wants in wanted.items() if await self._opened(pot, now)}
        asks = self._asks(wants, now)
        if not (asks or self._unsure):
            return set()
        stranded, self._stranded = self._stranded, {}
        self._turn += 1
        self._unsure = True
        began_at = self._clock.monotonic()
        try:
            answers = await self._leases.lease(self.process, self._turn, asks, stranded)
        except ProcessGone:
            self._gone, self._valid_until = True, float("-inf")
            raise
        except DatabaseUnavailable:
            self._doubted = stranded
            raise
        self._unsure = False
        self.took_s = self._clock.monotonic() - began_at
        self._valid_until = now + self._valid_s
        return self._take([ask.account for ask in asks], answers, now)

    async def close(self) -> None:
        """Close all slices; those whose calls never had an outcome count as spent. Raises DatabaseUnavailable."""
        for opening in self._openings.values():
            opening.cancel()
        if self.process and (self._slices or self._unsure):
            for account in list(self._slices):
                self._drop(account)
            await self._leases.close([self.process])

    async def _resolve_doubt(self) -> None:
        """Whether a lease was made whose answer is lost only the record can tell: what it told is told once."""
        if not self._doubted:
            return
        made = await self._leases.last_turn(self.process) >= self._turn
        doubted, self._doubted = self._doubted, {}
        for account, nano in () if made else doubted.items():
            if account in self._slices:
                self._stranded[account] = self._stranded.get(account, 0) + nano

    def _asks(self, wants: Mapping[int, Wants], now: float) -> list[Ask]:
        asks = []
        for account, slice_ in list(self._slices.items()):
            retired = self._pots[account].account != account
            if account not in wants and (slice_.idle(now) or (retired and not slice_.reserved)):
                self._drop(account)
                self._unsure = True  # the record closes what is not named
            else:
                asks.append(slice_.ask(wants.get(account, NO_WANTS), now, retired=retired))
        return asks

    def _take(self, asked: Iterable[int], answers: Mapping[int, Answer], now: float) -> set[Pot]:
        answered = set()
        for account in asked:
            pot, answer = self._pots[account], answers.get(account)
            if answer is None:  # its budget was removed
                self._drop(account)
                continue
            self._slices[account].take(answer)
            if pot.account == account:
                pot.figures = Figures.of(answer, now)
                answered.add(pot)
        return answered

    async def _opened(self, pot: Pot, now: float) -> bool:
        """Make sure of the account of the pot's present period, and of a slice of it."""
        at = self._clock.now()
        if at >= pot.ends and not self._turned(pot, at):
            return False
        if not pot.account:
            found = await self._open(pot)
            if found is None or not found[1]:
                return False
            pot.account = found[0]
        if pot.slice is None:
            pot.slice = self._slices[pot.account] = Slice(pot.account, now, asked_at=now)
            self._pots[pot.account] = pot
        return True

    def _turned(self, pot: Pot, at: float) -> bool:
        """Go on to the pot's present period. False where its zone is not known here: its calls wait, others go on."""
        try:
            pot.turn(at)
        except ZoneInfoNotFoundError as error:
            if pot.budget.id not in self._zoneless:
                self._zoneless.add(pot.budget.id)
                log.failure("budgets.zone_unknown", error, budget=pot.budget.id, timezone=pot.budget.timezone)
            return False
        return True

    async def _open(self, pot: Pot) -> tuple[int, bool] | None:
        """The account of the pot's period, and whether it is open; None as well while the record is still at it."""
        key = pot.budget.id, pot.begins
        opening = self._openings.get(key)
        if opening is None:
            self._openings = {other: still for other, still in self._openings.items() if not still.done()}
            opening = self._openings[key] = asyncio.get_running_loop().create_task(
                self._leases.open_account(pot.budget.id, pot.begins, pot.until), name="budget account"
            )
            opening.add_done_callback(_looked_at)
            await asyncio.wait((opening,), timeout=OPEN_S)
        if not opening.done():
            return None
        del self._openings[key]
        return opening.result()

    def _drop(self, account: int) -> None:
        pot = self._pots.pop(account)
        if pot.slice is self._slices.pop(account):
            pot.slice = None
        self._stranded.pop(account, None)


def _looked_at(opening: _Opening) -> None:
    """Whoever waits for it hears how it ended; its budget may be gone meanwhile."""
    if not opening.cancelled():
        opening.exception()
