"""What reserving and settling in budgets costs a call, in CPU of its process: `python bench/budget_guard.py`.

A guard with one budget, its slice leased; no database. Prints microseconds a call, with a budget and without.
"""

import asyncio
import time
from typing import Any

from tollway.domain.budgets import Budget, Period
from tollway.domain.clock import AnchoredClock
from tollway.domain.llm import Caller
from tollway.record.budget_leases import Answer, Ask
from tollway.spend.guard import BudgetGuard

CALLS = 200_000


class Leases:
    """Grants whatever is wanted."""

    async def see(self, _process: int, _version: int) -> None:
        """Heard."""

    async def open_account(self, budget: int, _begins: float, _ends: float | None) -> tuple[int, bool]:
        """An account of the budget's number."""
        return budget, True

    async def lease(self, _process: int, _turn: int, asks: list[Ask], _stranded: dict[int, int]) -> dict[int, Answer]:
        """A great deal."""
        return {ask.account: Answer(ask.account, 10**15, 0, 0, 10**17, 10**17, 10**15, False, False) for ask in asks}

    async def close(self, _processes: list[int]) -> None:
        """Nothing is kept."""


async def measure(*budgets: Budget) -> float:
    """Microseconds of CPU a call."""
    leases: Any = Leases()
    guard, caller = BudgetGuard(leases, AnchoredClock()), Caller("t", "standard", "a", key_id="k")
    guard.start(lambda: 1, lambda: {"t": budgets} if budgets else {})
    await guard.reserve(caller, 1, 10.0)
    began = time.process_time()
    for _ in range(CALLS):
        hold = await guard.reserve(caller, 1000, 2.5)
        guard.settle(hold, 400)
    took = time.process_time() - began
    await guard.stop()
    return took / CALLS * 1e6


async def main() -> None:
    """Print the figures."""
    for count in (0, 1, 3):
        took = await measure(*(Budget(n, "t", Period.DAY, hard_nano=10**17) for n in range(1, count + 1)))
        print(f"{count} budgets: {took:.2f} us a call")


if __name__ == "__main__":
    asyncio.run(main())
