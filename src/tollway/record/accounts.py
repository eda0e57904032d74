"""How budgets stand in their present period, in the memory of an API process: its door asks the record nothing."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping

from tollway.domain.budgets import AccountState, Rung
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.news import News
from tollway.record.budgets import BudgetsOf
from tollway.record.database import Database

READ_EVERY_S = 1.0
READ_MIN_S = 0.1
_DOOR_RUNGS = frozenset((Rung.PARK, Rung.REFUSE))


class AccountBoard:
    """`now`: the accounts that are exhausted, and those of budgets with a rung of the door in their ladder, by budget.

    Read about once a second and on news of "budget", as long as there is any budget; without, it asks nothing.
    """

    def __init__(self, database: Database, news: News) -> None:
        self._database = database
        self._news = news
        self.now: Mapping[int, AccountState] = {}
        self._watched: list[int] = []
        self._governed: BudgetsOf = {}
        self._turns = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to read; a second start is nothing."""
        if self._task is None:
            self._unsubscribe = self._news.subscribe("budget", lambda _: self._wake.set())
            self._task = asyncio.get_running_loop().create_task(self._keep_reading(), name="accounts")

    async def stop(self) -> None:
        """Read no more; a second stop is nothing."""
        task, self._task = self._task, None
        if task is not None:
            if self._unsubscribe is not None:
                self._unsubscribe()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def govern(self, budgets: BudgetsOf) -> None:
        """These budgets are in force; of one that was changed nothing is known until the next reading."""
        before = {budget.id: budget for of_tenant in self._governed.values() for budget in of_tenant}
        same = {one.id for of_tenant in budgets.values() for one in of_tenant if before.get(one.id) == one}
        self.now = {budget: state for budget, state in self.now.items() if budget in same}
        self._governed = budgets
        self._turns += 1
        self._watched = [
            budget.id
            for of_tenant in budgets.values()
            for budget in of_tenant
            if any(step.rung in _DOOR_RUNGS for step in budget.ladder)
        ]
        self._wake.set()

    async def read(self) -> None:
        """Read how they stand. Raises DatabaseUnavailable."""
        turn = self._turns
        rows = await self._database.rows("read_accounts", self._watched)
        if turn != self._turns:  # read before a change, perhaps: it says nothing of what holds now
            self._wake.set()
            return
        self.now = {row["budget"]: AccountState(row["ends"], row["spent_nano"], row["exhausted_lanes"]) for row in rows}

    async def _keep_reading(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_EVERY_S * random.uniform(0.9, 1.1) if self._governed else None):
                    await self._wake.wait()
            self._wake.clear()
            if not self._governed:
                continue
            with contextlib.suppress(DatabaseUnavailable):
                await self.read()
            await asyncio.sleep(READ_MIN_S)
