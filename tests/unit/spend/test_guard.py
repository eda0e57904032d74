"""The guard of budgets and what it costs a process that has many of them; leases are of a lender in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from tollway.domain.budgets import Budget, Period
from tollway.domain.llm import Caller
from tollway.record.budget_leases import Answer, Ask, BudgetLeases
from tollway.spend.guard import LEASING_SHARE, RENEW_S, BudgetGuard
from tollway.spend.pots import Pots

LIMIT = 1000


class RealClock:
    """The machine's."""

    def now(self) -> float:
        """Epoch seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()


class Lender:
    """One process alone with its accounts: it has all of them, up to LIMIT. `spans` are when leases began and ended."""

    def __init__(self, took_s: float = 0.0) -> None:
        self.took_s = took_s
        self.spans: list[tuple[float, float]] = []

    async def see(self, process: int, version: int) -> None:
        """Noted."""

    async def open_account(self, budget: int, begins: float, ends: float | None) -> tuple[int, bool]:
        """An account has its budget's number."""
        return budget, True

    async def lease(
        self, process: int, turn: int, asks: Sequence[Ask], stranded: Mapping[int, int]
    ) -> dict[int, Answer]:
        """All that is wanted, as far as there is."""
        began_at = time.monotonic()
        await asyncio.sleep(self.took_s)
        self.spans.append((began_at, time.monotonic()))
        return {
            ask.account: Answer(
                ask.account, min(LIMIT, ask.keep + ask.inner_want + ask.want), 0, LIMIT, LIMIT, LIMIT, 0, True, False
            )
            for ask in asks
        }

    async def close(self, processes: Sequence[int]) -> None:
        """Noted."""


@asynccontextmanager
async def guarding(lender: Lender, tenants: int) -> AsyncIterator[BudgetGuard]:
    """A guard of as many tenants, `t0` and so on, each with one budget."""
    budgets = {f"t{n}": (Budget(n + 1, f"t{n}", Period.TOTAL, hard_nano=LIMIT),) for n in range(tenants)}
    guard = BudgetGuard(cast(BudgetLeases, lender), RealClock())
    guard.start(lambda: 1, lambda: budgets)
    try:
        yield guard
    finally:
        await guard.stop()


def caller(tenant: int) -> Caller:
    """A call of a tenant's."""
    return Caller(f"t{tenant}", "standard", "triage")


async def test_a_call_that_ends_while_others_wait_looks_at_their_budgets_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a settled call costs does not grow with the tenants that have budgets."""
    looks: list[int] = []
    every = Pots.__iter__

    def look(pots: Pots) -> Any:
        looks.append(1)
        return every(pots)

    async with guarding(Lender(), 50) as guard:
        first = await guard.reserve(caller(0), LIMIT, 5.0)
        other = await guard.reserve(caller(1), LIMIT, 5.0)
        waiting = asyncio.create_task(guard.reserve(caller(0), LIMIT, 30.0))
        while not guard._pots.of(caller(0))[0].short:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(Pots, "__iter__", look)
        guard.settle(other, 0)
        guard.settle(first, 0)
        second = await waiting
        assert not looks
        guard.settle(second, 0)
        third = await guard.reserve(caller(0), LIMIT, 5.0)
        assert not guard._pots.of(caller(0))[0].short
        guard.settle(third, 0)


async def test_leases_that_take_long_are_made_less_often() -> None:
    """However often money runs low, leases take no more than their share of a process' time."""
    lender = Lender(took_s=0.05)
    async with guarding(lender, 2) as guard:
        hold = await guard.reserve(caller(0), 1, 5.0)
        while len(lender.spans) < 8:
            guard._wake.set()
            await asyncio.sleep(0.005)
        (began_at, _), (_, ended_at) = lender.spans[2], lender.spans[7]
        leased_s = sum(ended - began for began, ended in lender.spans[2:7])
        assert leased_s <= 1.3 * LEASING_SHARE * (lender.spans[7][0] - began_at)
        assert ended_at - began_at < 6 * RENEW_S
        guard.settle(hold, 0)
