"""What Postgres cannot hold must not keep a run from ending: errors may say anything."""

import asyncpg
import pytest

import tollway
from runtime_kit import ended, steps_of
from tollway.runtime.registry import Registry

UNFIT = ("nul \x00 byte", "lone \ud800 surrogate")


@pytest.mark.parametrize("text", UNFIT, ids=["nul", "surrogate"])
async def test_an_agents_error_may_say_anything(
    agents: Registry, make_crew, admin: asyncpg.Connection, text: str
) -> None:
    """P1: a run whose error text no database takes ends all the same, with the rest of the text."""

    @tollway.agent(max_attempts=1)
    async def clumsy(run: tollway.Run) -> None:
        raise ValueError(text)

    async with make_crew() as one:
        row = await ended(admin, await one.submit("clumsy"))
    assert (row["state"], row["error_code"]) == ("dead", "ValueError")
    assert row["error_message"].startswith(text[:4])


@pytest.mark.parametrize("text", UNFIT, ids=["nul", "surrogate"])
async def test_a_tasks_error_may_say_anything(
    agents: Registry, make_crew, admin: asyncpg.Connection, text: str
) -> None:
    """P1: a step whose error text no database takes is recorded as failed, and its run goes on."""

    def trip() -> None:
        raise ValueError(text)

    @tollway.agent
    async def careful(run: tollway.Run) -> str:
        try:
            await run.task("trip", trip)
        except ValueError:
            return "went on"
        return "never"

    async with make_crew() as one:
        run_id = await one.submit("careful")
        row = await ended(admin, run_id)
    assert (row["state"], row["output"]) == ("succeeded", b'"went on"')
    assert await steps_of(admin, run_id) == [("1", "trip", "failed")]
    error = await admin.fetchval("select error from step where run_id = $1", run_id)
    assert error.startswith(f"ValueError: {text[:4]}")


@pytest.mark.parametrize("text", UNFIT, ids=["nul", "surrogate"])
async def test_a_rejection_may_say_anything(agents: Registry, make_crew, admin: asyncpg.Connection, text: str) -> None:
    """P1: the reason of a Reject is kept as far as it can be."""

    @tollway.agent
    async def picky(run: tollway.Run) -> None:
        raise tollway.Reject(text)

    async with make_crew() as one:
        row = await ended(admin, await one.submit("picky"))
    assert (row["state"], row["error_code"]) == ("failed", "rejected")
