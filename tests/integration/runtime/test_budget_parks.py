"""Runs whose money is spent: they park behind the gate of their budget, and go on when it opens (P8)."""

import json
from typing import Any

import asyncpg
import pytest

import tollway
from record_kit import event_types
from runtime_kit import ended, until, until_true
from tollway.domain.budgets import Exhausted
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import LlmError
from tollway.hotstate.answers import PostgresAnswers
from tollway.llm.calls import Plan
from tollway.record.reads import RunReads
from tollway.record.run_document import rfc3339_epoch, run_json
from tollway.record.upkeep import Upkeep
from tollway.runtime.keeper import Keeper, KeeperOptions
from tollway.runtime.registry import Registry
from tollway.runtime.step_books import StepBooks

HOUR_S = 3600.0


class Purse:
    """What the books of every step answer: `spent` says that there is no money, and what becomes of the run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spent: LlmError | None = None
        intend = StepBooks.intend

        async def paid(books: StepBooks, plan: Plan) -> Any:
            if self.spent is not None:
                raise self.spent
            return await intend(books, plan)

        monkeypatch.setattr(StepBooks, "intend", paid)

    def empty(self, until_: float | None, *, parks: bool = True) -> LlmError:
        """There is no money of budget 7."""
        self.spent = LlmError("budget_exhausted", "budget 7 is spent", final=True)
        self.spent.exhausted = Exhausted(7, until_, parks)
        return self.spent


@pytest.fixture
def purse(monkeypatch: pytest.MonkeyPatch) -> Purse:
    """The purse of every step of the test."""
    return Purse(monkeypatch)


@pytest.mark.parametrize("how", ["plain", "stream", "timeout"])
async def test_a_run_parks_until_its_period_turns_and_goes_on(
    agents: Registry, make_crew, admin: asyncpg.Connection, purse: Purse, how: str
) -> None:
    """It gives up its slot, loses no attempt, says what it waits for and until when; when the gate opens it goes on.

    So it is for streams, and for steps with a time of their own: money may take longer than any call.
    """

    @tollway.agent
    async def spends(run: tollway.Run) -> str:
        if how == "stream":
            return "".join([text async for text in run.stream("hello", tier="fast")])
        return (await run.llm("hello", tier="fast", cache="off", timeout=5.0 if how == "timeout" else None)).text

    async with make_crew() as one:
        ends = one.database.clock.now() + 20 * 86_400.0
        purse.empty(ends)
        run_id = await one.submit("spends", max_attempts=1)
        await until_true(lambda: admin.fetchval("select state = 3 from queue where run_id = $1", run_id))
        await until(lambda: one.worker.running == 0)
        seen = json.loads(run_json(await RunReads(one.database).run(run_id)))
        assert (seen["state"], seen["blocked"]["reason"], seen["blocked"]["key"]) == ("parked", "budget", "7")
        assert abs(await admin.fetchval("select extract(epoch from opens_at)::float8 from queue") - ends) < 1.0
        assert seen["blocked"]["until"][:10] == rfc3339_epoch(ends)[:10]
        purse.spent = None
        await admin.execute("update queue set opens_at = now()")
        keeper = Keeper(
            Upkeep(one.database, 9),
            PostgresAnswers(one.database),
            one.broadcast,
            AnchoredClock(),
            KeeperOptions(0.05, {}, 1 << 20),
        )
        await keeper.start()
        row = await ended(admin, run_id)
        await keeper.stop()
    assert (row["state"], row["attempt"]) == ("succeeded", 1)
    types = await event_types(admin, run_id)
    assert types[types.index("parked") :][:3] == ["parked", "resumed", "claimed"]


async def test_a_budget_without_an_end_is_looked_at_again(
    agents: Registry, make_crew, admin: asyncpg.Connection, purse: Purse
) -> None:
    """Nobody can say when there is money again, so the run looks about once an hour."""

    @tollway.agent
    async def spends(run: tollway.Run) -> None:
        await run.llm("hello", tier="fast", cache="off")

    async with make_crew() as one:
        purse.empty(None)
        run_id = await one.submit("spends")
        await until_true(lambda: admin.fetchval("select state = 3 from queue where run_id = $1", run_id))
        left = await admin.fetchval("select extract(epoch from opens_at - now())::float8 from queue")
        assert HOUR_S - 60 < left <= HOUR_S


async def test_money_that_may_come_back_is_asked_for_soon(
    agents: Registry, make_crew, admin: asyncpg.Connection, purse: Purse
) -> None:
    """While others hold what they may not need a run waits moments, even of a budget that refuses."""

    @tollway.agent
    async def spends(run: tollway.Run) -> None:
        await run.llm("hello", tier="fast", cache="off")

    async with make_crew() as one:
        purse.empty(one.database.clock.now() + HOUR_S, parks=False).later().retry_after_s = 20.0
        run_id = await one.submit("spends")
        await until_true(lambda: admin.fetchval("select gate = 'budget:7' from queue where run_id = $1", run_id))
        left = await admin.fetchval("select extract(epoch from opens_at - now())::float8 from queue")
        assert 5 < left <= 20


async def test_a_budget_that_refuses_fails_its_calls(
    agents: Registry, make_crew, admin: asyncpg.Connection, purse: Purse
) -> None:
    """The agent hears of it, and may go on without the call; nothing is parked."""

    @tollway.agent
    async def spends(run: tollway.Run) -> str:
        try:
            await run.llm("hello", tier="fast", cache="off")
        except LlmError as error:
            return error.code
        return ""

    async with make_crew() as one:
        purse.empty(one.database.clock.now() + HOUR_S, parks=False)
        row = await ended(admin, await one.submit("spends"))
    assert (row["state"], json.loads(row["output"])) == ("succeeded", "budget_exhausted")
