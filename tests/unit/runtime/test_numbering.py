"""Steps are numbered when called, within their scope; what cannot be numbered alike in a replay is refused."""

import asyncio
import contextvars
import json
from collections.abc import Coroutine
from typing import Any

import pytest

import tollway
from executor_kit import outcome_of
from tollway.domain.errors import JournalMismatch
from tollway.domain.outcomes import Failed, Outcome, RetryAt, Succeeded
from tollway.runtime.registry import Registry
from tollway.runtime.scope import ForeignTask


def step(run: Any, name: str = "step") -> Coroutine[Any, Any, str]:
    """Number a step now, as `run.task` and `run.llm` do; what is awaited tells its path."""
    path: str = run._journal.call("task", name).path

    async def tell() -> str:
        await asyncio.sleep(0)
        return path

    return tell()


async def paths_of(agents: Registry, function: Any, **given: Any) -> list[Any]:
    """What the function, as an agent, returns."""
    tollway.agent(name="agent")(function)
    found = await outcome_of(agents, **given)
    assert isinstance(found, Succeeded), found
    return list(json.loads(found.output))


async def test_steps_in_a_row_count_up(agents: Registry) -> None:
    """A run's own steps are 1, 2, 3, in helper coroutines too."""

    async def helper(run: Any) -> str:
        return await step(run)

    async def agent(run: tollway.Run) -> list[str]:
        return [await step(run), await helper(run), await step(run)]

    assert await paths_of(agents, agent) == ["1", "2", "3"]


async def test_branches_have_scopes_of_their_own(agents: Registry) -> None:
    """Whatever order branches run in, a nested branch is numbered by its place: gather, branch, step."""

    async def branch(run: Any, turns: int) -> list[Any]:
        for _ in range(turns):
            await asyncio.sleep(0)
        first = await step(run)
        return [first, await run.gather(leaf(run, turns), leaf(run, 3 - turns)), await step(run)]

    async def leaf(run: Any, turns: int) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await step(run)

    async def agent(run: tollway.Run) -> list[Any]:
        first = await step(run)
        return [first, await run.gather(branch(run, 3), branch(run, 0)), await step(run)]

    assert await paths_of(agents, agent) == [
        "1",
        [["2.1.1", ["2.1.2.1.1", "2.1.2.2.1"], "2.1.3"], ["2.2.1", ["2.2.2.1.1", "2.2.2.2.1"], "2.2.3"]],
        "3",
    ]


async def test_steps_handed_to_gather_are_numbered_where_they_were_called(agents: Registry) -> None:
    """`gather(step(), step())` calls its steps in the outer scope, in order, and takes a number itself after them."""

    async def agent(run: tollway.Run) -> list[Any]:
        return [await run.gather(step(run), step(run)), await step(run)]

    assert await paths_of(agents, agent) == [["1", "2"], "4"]


async def test_a_task_without_a_scope_is_refused(agents: Registry) -> None:
    """A step from a task the agent made by itself has no number that a replay would find: it names gather instead."""

    async def agent(run: tollway.Run) -> list[str]:
        async def stray() -> str:
            return await step(run, "stray")

        found = []
        for way in (
            asyncio.create_task(stray()),
            asyncio.create_task(stray(), context=contextvars.Context()),
            asyncio.gather(stray()),
        ):
            with pytest.raises(ForeignTask, match=r"'stray'.*run\.gather"):
                await way
            found.append("refused")
        return [*found, await step(run)]

    assert await paths_of(agents, agent) == ["refused"] * 3 + ["1"]


async def test_a_gather_from_a_foreign_task_is_refused(agents: Registry) -> None:
    """It has no scope to open branches in; the coroutines it was handed are closed, not leaked."""

    async def agent(run: tollway.Run) -> list[str]:
        async def stray() -> None:
            await run.gather(asyncio.sleep(0), asyncio.sleep(0))

        with pytest.raises(RuntimeError, match=r"run\.gather must be called from the run's own task"):
            await asyncio.create_task(stray())
        return []

    assert await paths_of(agents, agent) == []


async def test_the_first_error_cancels_the_other_branches(agents: Registry) -> None:
    """The error is raised once every other branch has let go."""
    let_go: list[str] = []

    async def agent(run: tollway.Run) -> None:
        async def waits() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                let_go.append("waits")

        async def fails() -> None:
            await asyncio.sleep(0)
            raise ValueError("first")

        await run.gather(waits(), fails(), waits())

    tollway.agent(agent)
    found = await outcome_of(agents)
    assert isinstance(found, RetryAt)
    assert (found.code, found.message, let_go) == ("ValueError", "first", ["waits"] * 2)


def row(path: str, name: str, kind: str = "task") -> dict[str, Any]:
    """A recorded step."""
    return {"path": path, "n": int(path), "kind": kind, "name": name, "state": "done", "cost_nano": 5}


@pytest.mark.parametrize("recorded", [row("2", "other"), row("2", "step", "llm")])
async def test_a_journal_that_does_not_fit_ends_the_run(agents: Registry, recorded: dict[str, Any]) -> None:
    """Another name or kind at a place fails the run, also when the agent catches the error."""

    async def agent(run: tollway.Run) -> list[str]:
        first = await step(run)
        try:
            await step(run)
        except JournalMismatch:
            return [first]
        return []

    tollway.agent(agent)
    found: Outcome = await outcome_of(agents, recorded=[row("1", "step"), recorded])
    assert isinstance(found, Failed)
    assert found.code == "journal_mismatch"
    assert "step 2 was recorded as" in found.message


async def test_what_was_spent_before_counts(agents: Registry) -> None:
    """A replayed run's budget begins with what its recorded steps cost."""

    async def agent(run: tollway.Run) -> list[float | None]:
        return [run.budget.spent_usd, run.budget.remaining_usd, run.budget.limit_usd]

    found = await paths_of(agents, agent, recorded=[row("1", "a"), row("2", "b")], budget_nano=8)
    assert found == [1e-8, 0.0, 8e-9]
