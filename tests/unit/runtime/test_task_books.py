"""The money of tasks: whatever becomes of them, in whatever order, it is conserved and within the run's budget."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_kit import StillClock, make_claim
from tollway.domain.errors import LlmError
from tollway.record.writes import Entry, RunWrite
from tollway.runtime.journal import RunJournal
from tollway.runtime.journal_steps import Step
from tollway.runtime.task_books import TaskBooks, declared_nano
from tollway.spend.budgets import NoBudgets

ENDS = ("done", "failed", "failed before", "cut", "cut before", "cached")
KINDS = dict(zip(ENDS, ("settle", "settle", "release", "unknown", "release", "saved"), strict=True))


class Shelf:
    """What a journal hands in, kept at once."""

    budgets = NoBudgets()

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.writes = self
        self.kept: list[RunWrite] = []

    def put(self, journal: RunJournal) -> "asyncio.Future[bool]":
        """Take what the journal has, and say that it is durable."""
        taken = journal.take()
        assert taken is not None
        self.kept.append(taken)
        durable: asyncio.Future[bool] = self.loop.create_future()
        durable.set_result(True)
        return durable

    @property
    def entries(self) -> list[Entry]:
        """All entries of the ledger."""
        return [entry for write in self.kept for entry in write.entries]


def journal_on(shelf: Any, budget_nano: int | None = None) -> RunJournal:
    """The journal of a fresh run."""
    return RunJournal(make_claim(budget_nano=budget_nano), (), shelf, StillClock(), "worker-1")


def finish(books: TaskBooks, end: str) -> None:
    """End an execution."""
    if not end.endswith("before") and end != "cached":
        books.begins()
    if end == "cached":
        books.end("done", b"1", None, cached="exact")
    elif end == "done":
        books.end("done", b"1", None)
    else:
        books.end("failed", None, "no", cut=end.startswith("cut"))


@given(
    st.lists(st.tuples(st.sampled_from(ENDS), st.integers(0, 10**10)), min_size=1, max_size=8),
    st.none() | st.integers(0, 3 * 10**10),
    st.integers(1, 8),
)
def test_every_nano_dollar_is_conserved(tasks: list[tuple[str, int]], budget: int | None, at_once: int) -> None:
    """P4: each paid task has one entry, by its end, nothing stays reserved, and no budget is passed."""

    async def play() -> None:
        shelf = Shelf()
        journal, expected = journal_on(shelf, budget), {}
        for first in range(0, len(tasks), at_once):
            open_ones = []
            for number, (end, cost) in enumerate(tasks[first : first + at_once], first + 1):
                books = TaskBooks(journal, Step(str(number), "task", "t", None), UUID(int=number), cost)
                try:
                    await books.intend()
                except LlmError:
                    continue
                open_ones.append((books, end))
                if cost:
                    expected[UUID(int=number)] = (KINDS[end], cost if KINDS[end] in ("settle", "unknown") else 0)
            purse = journal.purse
            assert budget is None or purse.spent_nano + purse.reserved_nano <= budget
            for books, end in open_ones:
                finish(books, end)
            await asyncio.sleep(0)
        while journal._pending is not None or journal._flying is not None:
            await asyncio.sleep(0)
        assert journal.purse.reserved_nano == 0
        assert {entry.call_id: (entry.kind, entry.nano) for entry in shelf.entries} == expected
        assert len(shelf.entries) == len(expected)
        settled = sum(nano for kind, nano in expected.values() if kind == "settle")
        assert settled == sum(outcome.cost_nano for write in shelf.kept for outcome in write.outcomes)
        assert journal.purse.spent_nano == sum(nano for _, nano in expected.values())

    asyncio.run(play())


async def test_what_costs_nothing_is_done_in_a_run_that_spent_too_much() -> None:
    """A call that cost more than was reserved for it ends no task that is free, or kept."""
    journal = journal_on(Shelf(), 100)
    journal.purse.spend(150)
    await TaskBooks(journal, Step("1", "task", "free", None), UUID(int=1), 0).intend()
    await TaskBooks(journal, Step("2", "task", "kept", None), UUID(int=2), 50).intend(paid=False)
    with pytest.raises(LlmError, match="does not cover") as refused:
        await TaskBooks(journal, Step("3", "task", "paid", None), UUID(int=3), 1).intend()
    assert (refused.value.code, refused.value.final) == ("budget_exhausted", True)


async def test_a_run_that_is_handed_back_leaves_a_cut_task_as_it_stands() -> None:
    """P2: its intent is judged by its policy later, so nothing is written of its end; nothing stays reserved here."""
    shelf = Shelf()
    journal = journal_on(shelf)
    books = TaskBooks(journal, Step("1", "task", "t", None), UUID(int=1), 50)
    await books.intend()
    books.begins()
    journal.hands_off = True
    books.end("failed", None, "cancelled", cut=True)
    await asyncio.sleep(0)
    assert (shelf.entries, journal.purse.reserved_nano, journal.purse.spent_nano) == ([], 0, 0)


@given(st.integers(0, 10**15))
def test_a_declared_cost_is_exact(nano: int) -> None:
    """Any number of nano-dollars up to a million dollars, as a Decimal, is taken to the nano-dollar."""
    assert declared_nano(Decimal(nano).scaleb(-9)) == nano


@given(st.floats(allow_nan=True, allow_infinity=True) | st.decimals() | st.integers())
def test_any_number_is_a_cost_or_refused(cost: Any) -> None:
    """P11: an amount from 0 to a million dollars is taken, any other number is a ValueError and nothing else."""
    try:
        nano = declared_nano(cost)
    except ValueError:
        assert not (Decimal(cost).is_finite() and 0 <= Decimal(cost) <= 10**6)
    else:
        assert abs(Decimal(nano).scaleb(-9) - Decimal(cost)) <= Decimal("1e-9")
