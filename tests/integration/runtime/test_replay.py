"""A run whose worker was lost goes on in another, from its journal (P1, P2, P3)."""

import asyncio
from collections import Counter
from uuid import UUID

import asyncpg
import pytest

import tollway
from record_kit import event_types
from runtime_kit import Crew, ended, ledger_of, steps_of, until, until_true
from tollway.runtime.registry import Registry
from tollway.simulator.provider import RunningSim


class Gate:
    """Holds agents at a place until opened; counts what was done before it."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.open.wait()

    def count(self, name: str) -> int:
        self.done[name] += 1
        return self.done[name]


async def test_what_was_recorded_is_not_done_again(
    agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """After a lost worker every step with a recorded outcome returns it, and the provider is not asked again (P2)."""
    gate = Gate()

    @tollway.agent
    async def steady(run: tollway.Run) -> list[str | int]:
        reply = await run.llm("hello", tier="fast")
        seen = await run.task("count", gate.count, "task")
        await run.progress({"at": "half"})  # with it the outcomes so far are durable
        await gate.wait()
        return [reply.text, seen, reply.usage.output_tokens, run.attempt]

    async with make_crew() as first:
        run_id = await first.submit("steady")
        await gate.reached.wait()
        await until_true(lambda: admin.fetchval("select bool_and(state = 'done') and count(*) = 2 from step"))
        await first.crash()
    gate.open.set()
    async with make_crew():
        row = await ended(admin, run_id)
    assert (row["state"], row["attempt"], row["llm_calls"], row["steps"]) == ("succeeded", 2, 1, 2)
    assert row["output"].endswith(b",1,20,2]")
    assert gate.done["task"] == len(sim.ledger) == 1
    assert await ledger_of(admin, run_id) == ["settle"]
    assert (await event_types(admin, run_id)).count("claimed") == 2


async def test_a_cut_call_is_paid_again_and_the_ledger_shows_both(
    agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """A call cut between intent and outcome is unknown at its worst case, and is made once more under a new id."""

    @tollway.agent
    async def caller(run: tollway.Run) -> str:
        return (await run.llm("hello", tier="brief")).text

    async with make_crew() as first:
        run_id = await first.submit("caller")
        await until(lambda: sim.ledger.in_flight)
        await first.crash()
    async with make_crew():
        row = await ended(admin, run_id)
    assert row["state"] == "succeeded"
    assert await ledger_of(admin, run_id) == ["unknown", "settle"]
    assert await steps_of(admin, run_id) == [("1", "llm", "done")]
    nano = await admin.fetch("select kind, nano, estimated from ledger order by call_id")
    assert nano[0]["nano"] > nano[1]["nano"] == row["cost_nano"] > 0
    assert nano[0]["estimated"]
    assert "step.unknown" in await event_types(admin, run_id)
    assert len({call.call_id for call in sim.ledger.rows()}) == 2


@pytest.mark.parametrize("policy", ["retry", "fail"])
async def test_a_cut_task_obeys_its_policy(policy: str, agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """`retry` runs a task cut in the middle again; `fail` ends the run as step_unknown, the task done once."""
    gate = Gate()

    async def slow() -> int:
        number = gate.count("slow")
        await gate.wait()
        return number

    @tollway.agent
    async def careful(run: tollway.Run) -> int:
        return await run.task("slow", slow, on_unknown=policy)

    async with make_crew() as first:
        run_id = await first.submit("careful")
        await gate.reached.wait()
        await first.crash()
    gate.open.set()
    async with make_crew():
        row = await ended(admin, run_id)
    if policy == "retry":
        assert (row["state"], row["output"], gate.done["slow"]) == ("succeeded", b"2", 2)
        assert await steps_of(admin, run_id) == [("1", "slow", "done")]
    else:
        assert (row["state"], row["error_code"], gate.done["slow"]) == ("failed", "step_unknown", 1)
        assert await steps_of(admin, run_id) == [("1", "slow", "unknown")]
    assert (await event_types(admin, run_id)).count("step.unknown") == 1
    assert await admin.fetchval("select count(*) from ledger") == 0


async def test_an_agent_may_catch_an_unknown_step(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """StepUnknown is the agent's to handle, and a second loss finds the same verdict without a second event."""
    gate, later = Gate(), Gate()

    async def slow() -> None:
        await gate.wait()

    @tollway.agent
    async def handler(run: tollway.Run) -> str:
        try:
            await run.task("slow", slow, on_unknown="fail")
        except tollway.StepUnknown as error:
            gate.count("unknown")
            await run.progress("noted")
            await later.wait()
            return f"step {error.step} {error.name}"
        return "never"

    async with make_crew() as first:
        run_id = await first.submit("handler")
        await gate.reached.wait()
        await first.crash()
    async with make_crew() as second:
        await later.reached.wait()
        await until_true(lambda: admin.fetchval("select count(*) from event where type = 'progress'"))
        later.open.set()
        await until(lambda: not second.worker.running)
        row = await ended(admin, run_id)
    assert (row["state"], row["output"]) == ("succeeded", b'"step 1 slow"')
    assert (await event_types(admin, run_id)).count("step.unknown") == gate.done["unknown"] == 1


async def test_parallel_branches_replay_alike(
    agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """Branches of nested gathers keep their numbers whatever order they run in; what was done is not repeated."""
    gate = Gate()

    @tollway.agent
    async def wide(run: tollway.Run) -> list[object]:
        async def branch(name: str, order: int) -> list[object]:
            for _ in range(order if run.attempt == 1 else 4 - order):  # another order of events in the replay
                await asyncio.sleep(0.01)
            first = await run.task(f"{name} first", gate.count, name)
            pair = await run.gather(run.llm(f"{name} a", tier="fast"), run.llm(f"{name} b", tier="fast"))
            return [first, *(reply.text for reply in pair)]

        found = await run.gather(branch("x", 3), branch("y", 1), branch("z", 2))
        await run.progress("gathered")
        if run.attempt == 1:
            await gate.wait()
        return [found, await run.task("last", gate.count, "last")]

    async with make_crew() as first:
        run_id = await first.submit("wide")
        await gate.reached.wait()
        await until_true(lambda: admin.fetchval("select bool_and(state = 'done') and count(*) = 9 from step"))
        before = {path: name for path, name, _ in await steps_of(admin, run_id)}
        await first.crash()
    async with make_crew():
        row = await ended(admin, run_id)
    assert row["state"] == "succeeded", row["error_message"]
    assert len(sim.ledger) == 6
    assert gate.done == {"x": 1, "y": 1, "z": 1, "last": 1}
    after = {path: name for path, name, _ in await steps_of(admin, run_id)}
    assert before.items() < after.items()
    assert {path: before[path] for path in ("1.1.1", "1.2.1", "1.3.3")} == {
        "1.1.1": "x first",
        "1.2.1": "y first",
        "1.3.3": "llm",
    }
    assert after["2"] == "last"


async def test_changed_code_stops_the_run(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """A journal that does not fit the code any more fails the run, naming both, even when the agent swallows it."""
    gate = Gate()
    name = "old name"

    @tollway.agent
    async def changing(run: tollway.Run) -> str:
        try:
            await run.task(name, gate.count, "task")
            await run.progress("half")
        except Exception:
            return "swallowed"
        await gate.wait()
        return "done"

    async with make_crew() as first:
        run_id = await first.submit("changing")
        await gate.reached.wait()
        await until_true(lambda: admin.fetchval("select count(*) from step where state = 'done'"))
        await first.crash()
    name = "new name"
    async with make_crew():
        row = await ended(admin, run_id)
    assert (row["state"], row["error_code"]) == ("failed", "journal_mismatch")
    assert "'old name'" in row["error_message"]
    assert "'new name'" in row["error_message"]
    assert gate.done["task"] == 1


async def test_an_outcome_rides_with_the_next_intent_and_the_end(
    agents: Registry, make_crew, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lone run of N steps that follow at once takes N writes of its journal and one of its end, no more."""

    @tollway.agent
    async def chain(run: tollway.Run) -> int:
        for number in range(5):
            await run.task(f"step {number}", lambda: None)
        return 5

    async with make_crew() as one:
        statements: Counter[str] = Counter()
        rows = one.database.rows

        async def counting(name: str, *arguments: object) -> object:
            statements[name] += 1
            return await rows(name, *arguments)

        monkeypatch.setattr(one.database, "rows", counting)
        run_id = await one.submit("chain")
        assert (await ended(admin, run_id))["state"] == "succeeded"
        assert (statements["write_journal"], statements["complete_runs"]) == (5, 1)
    assert {state for _, _, state in await steps_of(admin, run_id)} == {"done"}


async def fence_off(admin: asyncpg.Connection, run_id: UUID) -> dict[str, object]:
    """Give the run to another claim, behind its worker's back."""
    await admin.execute("update queue set fence = fence + 65536, worker = 999999 where run_id = $1", run_id)
    return dict(await admin.fetchrow("select * from queue where run_id = $1", run_id))


async def test_a_fenced_worker_writes_nothing_and_stops(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Once another claim holds the run, the next step raises, the task ends, and the record stays as it was (P3)."""
    gate, after = Gate(), asyncio.Event()

    @tollway.agent
    async def stale(run: tollway.Run) -> str:
        await run.task("first", lambda: 1)
        await gate.wait()
        try:
            for _ in range(3):
                await run.task("second", gate.count, "second")
        finally:
            after.set()
        return "late"

    async with make_crew() as one:
        run_id = await one.submit("stale")
        await gate.reached.wait()
        await until_true(lambda: admin.fetchval("select count(*) from step where state = 'done'"))
        before = await fence_off(admin, run_id)
        gate.open.set()
        await after.wait()
        await until(lambda: one.worker.running == 0)
        assert dict(await admin.fetchrow("select * from queue")) == before
        assert await steps_of(admin, run_id) == [("1", "first", "done")]
        assert await admin.fetchval("select state from run") is None
        assert one.metrics.runs_returned.value("standard", "lost") == 1
        assert one.metrics.runs_ended.value("standard", "succeeded") == gate.done["second"] == 0


async def test_a_fenced_end_is_not_taken(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """An agent that returns after its run was given to another claim ends nothing."""
    gate = Gate()

    @tollway.agent
    async def late(run: tollway.Run) -> str:
        await gate.wait()
        return "late"

    async with make_crew() as one:
        run_id = await one.submit("late")
        await gate.reached.wait()
        before = await fence_off(admin, run_id)
        gate.open.set()
        await until(lambda: one.worker.running == 0)
        assert dict(await admin.fetchrow("select * from queue")) == before
        assert await admin.fetchval("select state from run") is None
        assert await event_types(admin, run_id) == ["accepted", "claimed"]


async def run_to_call(one: Crew, sim: RunningSim, agent: str) -> UUID:
    """Submit and wait until the provider has the call."""
    run_id = await one.submit(agent)
    await until(lambda: sim.ledger.in_flight)
    return run_id


async def test_a_hand_back_leaves_intents_and_costs_no_attempt(
    agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """A stopping worker gives its runs back at the end of its grace; calls under way stay intents, then unknown."""

    @tollway.agent
    async def long(run: tollway.Run) -> str:
        return (await run.llm("hello", tier="brief" if run.metadata["brief"] else "slow")).text

    async with make_crew() as first:
        run_id = await first.submit("long", metadata='{"brief": false}')
        await until(lambda: sim.ledger.in_flight)
        await first.worker.stop(grace_s=0.05)
        row = await admin.fetchrow("select state, worker, errors, lost, gate from queue")
        assert tuple(row) == (0, None, 0, 0, None)
        assert await steps_of(admin, run_id) == [("1", "llm", "intent")]
        assert await admin.fetchval("select count(*) from ledger") == 0
        assert (await event_types(admin, run_id))[-1] == "handed_back"
        assert first.metrics.runs_returned.value("standard", "handed_back") == 1
    await admin.execute("""update run set metadata = '{"brief": true}'""")
    async with make_crew():
        row = await ended(admin, run_id)
    assert (row["state"], row["attempt"]) == ("succeeded", 1)
    assert await ledger_of(admin, run_id) == ["unknown", "settle"]
