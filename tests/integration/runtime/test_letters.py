"""Replays of real dead runs from the step that failed: what was paid is not paid again (P2)."""

from collections import Counter
from typing import Any
from uuid import UUID

import asyncpg
import pytest

import tollway
from record_kit import new_run
from runtime_kit import Crew, ended, ledger_of, steps_of
from tollway.record.dead_letters import DeadFilter, list_dead_letters, list_letters
from tollway.record.replay import Kept, Replay, replay_runs
from tollway.runtime.registry import Registry
from tollway.simulator.provider import RunningSim


async def replay_it(one: Crew, run_id: UUID, agent: str, **given: Any) -> UUID:
    """Replay the run from its failed step."""
    new = new_run(agent=agent, replay_of=run_id, **given)
    assert (await replay_runs(one.database, [Replay(new, run_id, Kept.FINISHED)], letters=True)).olds == {run_id}
    one.broadcast.publish("queue", new.lane)
    return new.id


async def test_branches_that_finished_after_the_failed_step_are_kept(
    agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """Of parallel branches one fails; the replay calls the provider for nothing that is done, whatever its number."""
    done: Counter[str] = Counter()
    well = False

    async def count(name: str) -> str:
        done[name] += 1
        if name == "bad" and not well:
            raise RuntimeError(f"no luck with order {done[name]}")
        return name

    @tollway.agent(max_attempts=1)
    async def fan(run: tollway.Run) -> list[Any]:
        first = await run.llm("hello", tier="fast", cache="off")

        async def branch(name: str) -> str:
            left = await run.llm(f"branch {name}", tier="fast", cache="off")
            assert left.text
            return await run.task("count", count, name)

        async def caught(name: str) -> str:
            try:
                return await branch(name)
            except RuntimeError as error:
                return str(error)

        names = await run.gather(caught("bad"), branch("b"), branch("c"))
        if names[0] != "bad":
            raise RuntimeError(f"failed at last: {names[0]}")
        return [first.text, *names]

    async with make_crew() as one:
        run_id = await one.submit("fan")
        assert (await ended(admin, run_id))["state"] == "dead"
        assert len(sim.ledger) == 4
        journal = await steps_of(admin, run_id)
        assert [state for _, _, state in journal].count("failed") == 1
        (group,), _ = await list_dead_letters(one.database, DeadFilter(), None, 10)
        (letter,) = await list_letters(one.database, group["fingerprint"], DeadFilter(), None, 10)
        assert letter["failed_step"]["name"] == "count"
        assert "no luck with order 1" in letter["failed_step"]["error"]
        well = True
        again = await replay_it(one, run_id, "fan")
        row = await ended(admin, again)
    assert (row["state"], row["replay_of"], row["llm_calls"], row["cost_nano"]) == ("succeeded", run_id, 0, 0)
    assert done == {"bad": 2, "b": 1, "c": 1}
    assert len(sim.ledger) == 4
    assert await ledger_of(admin, again) == []
    assert sorted(path for path, _, _ in await steps_of(admin, again)) == sorted(path for path, _, _ in journal)


async def test_another_code_meets_the_old_journal_and_is_told(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """A replay from the failed step whose code asks for other steps stops with `journal_mismatch`; it never guesses."""
    names = iter(["look", "listen"])

    @tollway.agent(max_attempts=1)
    async def fickle(run: tollway.Run) -> None:
        await run.task(next(names), lambda: 1)
        raise RuntimeError("no")

    async with make_crew() as one:
        run_id = await one.submit("fickle")
        assert (await ended(admin, run_id))["state"] == "dead"
        row = await ended(admin, await replay_it(one, run_id, "fickle"))
    assert (row["state"], row["error_code"]) == ("failed", "journal_mismatch")


@pytest.mark.parametrize("policy", ["retry", "fail"])
async def test_a_step_cut_in_a_dead_run_obeys_its_policy(
    policy: str, agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """What was cut between intent and outcome is not silently repeated by a replay: the step's policy decides (P2)."""
    done: Counter[str] = Counter()

    @tollway.agent
    async def careful(run: tollway.Run) -> int:
        await run.task("first", lambda: done.update(["first"]))
        return await run.task("send", lambda: done.update(["send"]) or done["send"], on_unknown=policy)

    async with make_crew() as one:
        run_id = await one.submit("careful")
        await ended(admin, run_id)
        # as if the second step had killed its workers
        await admin.execute("update step set state = 'unknown', result = null where name = 'send'")
        await admin.execute("update run set state = 'dead', output = null, error_code = 'poison'")
        await admin.execute(
            "insert into dead_letter select id, tenant, agent, lane, 'f', 'poison', 'm', 0, now() from run"
        )
        row = await ended(admin, await replay_it(one, run_id, "careful"))
    if policy == "retry":
        assert (row["state"], done) == ("succeeded", {"first": 1, "send": 2})
    else:
        assert (row["state"], row["error_code"], done) == ("failed", "step_unknown", {"first": 1, "send": 1})


async def test_errors_are_grouped_as_people_would(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """One group for a message that differs by a number; others for another line, another type, and a model's error."""

    @tollway.agent(max_attempts=1)
    async def clumsy(run: tollway.Run, how: int) -> None:
        if how < 0:
            await run.llm("hello", tier="none")
        if how > 100:
            raise ValueError(f"order {how} is too large")
        raise (KeyError if how == 50 else ValueError)(f"order {how} is unknown")

    async with make_crew() as one:
        runs = [await one.submit("clumsy", input=b"%d" % how) for how in (1, 2, 50, 101, 102, -1, -2)]
        for run_id in runs:
            await ended(admin, run_id)
        groups, _ = await list_dead_letters(one.database, DeadFilter(), None, 10)
    assert sorted((group["code"], group["count"]) for group in groups) == [
        ("KeyError", 1),
        ("ValueError", 2),
        ("ValueError", 2),
        ("unknown_tier", 2),
    ]
