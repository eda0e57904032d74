"""Slices of budgets, leased by processes: money that one may reserve on its own until it gives it back.

A lease tells the whole of what a process keeps, so one whose answer was lost is mended by the next.
"""

from collections.abc import Mapping, Sequence

import msgspec

from tollway.record.database import Database
from tollway.record.processes import ProcessGone

REFUNDS_MAX = 1000


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What a process keeps and wants of an account, nano-dollars.

    `keep` is all it was granted and does not give back, what it spent included. It wants more for calls of the
    interactive lane (`inner_want`) and of others (`want`), and can make no use of less than `first`; `comfort` is what
    it would like to hold idle.
    """

    account: int
    keep: int
    inner_want: int = 0
    want: int = 0
    first: int = 0
    comfort: int = 0


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a process has of an account now (`granted`, all in all), and how the account stands with all its slices.

    Lanes but the interactive one end at `line`; `past` says that it is reached. `near` says that little is left, or
    less than was asked for, so that idle money is to be given back; at most `comfort_max` may be idle at a process.
    `sharers` processes have slices.
    """

    account: int
    granted: int
    spent: int
    reserved: int
    hard: int
    line: int
    comfort_max: int
    near: bool
    past: bool
    sharers: int = 1


class BudgetLeases:
    """The leases' verbs on the record. All raise DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def see(self, process: int, version: int) -> None:
        """Say that every call of a process reserves in the budgets of this version of the settings."""
        await self._database.rows("see_budgets", process, version)

    async def open_account(self, budget: int, begins: float, ends: float | None) -> tuple[int, bool] | None:
        """The account of a period (epoch seconds), and whether it is open yet; None when the budget is gone.

        One that was set within its period opens once all processes have read it, at what was spent before.
        """
        row = await self._database.row("open_budget_account", budget, begins, ends)
        return None if row is None else (row["account"], row["opened"])

    async def lease(
        self, process: int, turn: int, asks: Sequence[Ask], stranded: Mapping[int, int]
    ) -> dict[int, Answer]:
        """One lease, by account; turns rise. What is not asked about is closed.

        `stranded` was reserved for calls that are given up, by account: it counts as spent. Raises ProcessGone.
        """
        rows = await self._database.rows(
            "lease_budgets",
            process,
            turn,
            [ask.account for ask in asks],
            [ask.keep for ask in asks],
            [ask.inner_want for ask in asks],
            [ask.want for ask in asks],
            [ask.first for ask in asks],
            [ask.comfort for ask in asks],
            list(stranded),
            list(stranded.values()),
        )
        answers = [Answer(*row) for row in rows if row["account"] is not None]
        if len(answers) < len(rows):
            raise ProcessGone(f"process {process} is no longer on record")
        return {answer.account: answer for answer in answers}

    async def last_turn(self, process: int) -> int:
        """The last lease that a process made, once none is under way; 0 for one that is not on record."""
        return int(await self._database.value("read_budgets_turn", process) or 0)

    async def close(self, processes: Sequence[int]) -> None:
        """Close all slices of these; what they had reserved counts as spent.

        Each in a transaction of its own: it locks its accounts in their order, but two together would not.
        """
        for process in processes:
            await self._database.rows("close_budgets", process)

    async def close_lost(self) -> int:
        """Close what processes left that are on record no more; returns how many they were."""
        lost = [row["process"] for row in await self._database.rows("find_lost_budgets")]
        if lost:
            await self.close(lost)
        return len(lost)

    async def refund_openings(self) -> None:
        """Calls under way when an account was opened count at what they cost, as soon as that is known."""
        while True:
            rows = await self._database.rows("find_refunds", REFUNDS_MAX)
            if rows:
                columns = [list(column) for column in zip(*rows, strict=True)]
                await self._database.rows("refund_openings", *columns)
            if len(rows) < REFUNDS_MAX:
                return
