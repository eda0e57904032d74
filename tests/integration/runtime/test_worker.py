"""A worker on the real record: what agents do and cost, how runs end, and what comes between."""

import asyncio
import json
import threading
from typing import Any

import asyncpg
import pytest

import tollway
from record_kit import accept_all, claim, event_types, new_run
from runtime_kit import Crew, ended, ledger_of, steps_of, until, until_true
from tollway.domain.errors import LlmError
from tollway.queue.bulkheads import Bulkheads
from tollway.record.cancel import cancel_runs, tell_cancelled
from tollway.record.tenants import put_tenant
from tollway.runtime import worker as worker_module
from tollway.runtime.registry import Registry
from tollway.simulator.provider import RunningSim


async def data_of(admin: asyncpg.Connection, run_id: object, kind: str) -> list[Any]:
    """The data of a run's events of one type."""
    rows = await admin.fetch("select data from event where run_id = $1 and type = $2 order by seq", run_id, kind)
    return [json.loads(row[0]) for row in rows]


async def cancel(one: Crew, run_id: Any) -> None:
    """Ask for a cancel as the API does."""
    tell_cancelled(one.broadcast, await cancel_runs(one.database, [run_id], "key-9"))


async def test_a_running_run_is_cancelled(
    agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """The agent is cancelled, its call's cost stands as unknown, and the event names who asked."""
    noticed: list[str] = []

    @tollway.agent
    async def stubborn(run: tollway.Run) -> str:
        try:
            await run.llm("hello", tier="slow")
        except asyncio.CancelledError:
            noticed.append(run.id)
            return "too late"
        return "never"

    async with make_crew() as one:
        run_id = await one.submit("stubborn")
        await until(lambda: sim.ledger.in_flight)
        await cancel(one, run_id)
        row = await ended(admin, run_id)
        await until(lambda: one.worker.running == 0)
        assert one.metrics.runs_ended.value("standard", "cancelled") == 1
    assert (row["state"], row["output"], noticed) == ("cancelled", None, [str(run_id)])
    assert await ledger_of(admin, run_id) == ["unknown"]
    assert await steps_of(admin, run_id) == [("1", "llm", "failed")]
    actor = await admin.fetchrow("select actor_kind, actor_id from event where type = 'cancelled'")
    assert tuple(actor) == ("key", "key-9")


async def test_a_cancel_is_found_without_news(
    agents: Registry, make_crew, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that hears no news looks for cancels by itself."""
    monkeypatch.setattr(worker_module, "CANCEL_POLL_S", 0.05)

    @tollway.agent
    async def sleeper(run: tollway.Run) -> None:
        await asyncio.sleep(60)

    async with make_crew() as one:
        run_id = await one.submit("sleeper")
        await until(lambda: one.worker.running)
        await one.broadcast.stop()
        one.worker._cancel_wanted.set()  # its present wait was chosen while news travelled
        await cancel_runs(one.database, [run_id], "key-9")
        assert (await ended(admin, run_id))["state"] == "cancelled"


async def test_parallel_calls_stay_within_the_runs_budget(
    agents: Registry, make_crew, sim: RunningSim, admin: asyncpg.Connection
) -> None:
    """Of many calls at once those wait whose worst case does not fit yet; the budget is used up but for one (P4)."""
    budgets: list[tollway.Budget] = []

    @tollway.agent(max_attempts=1)
    async def greedy(run: tollway.Run) -> list[str]:
        async def call(number: int) -> str:
            try:
                await run.llm(f"question {number}", tier="brief", max_tokens=100)
            except LlmError as error:
                return error.code
            return "ok"

        found = await run.gather(*(call(number) for number in range(20)))
        budgets.append(run.budget)
        return sorted(found)

    limit = 200_000  # a call is reserved at some 63,000 nano-dollars and costs some 14,000
    async with make_crew() as one:
        run_id = await one.submit("greedy", budget_nano=limit)
        row = await ended(admin, run_id)
    outcome = json.loads(row["output"])
    made = outcome.count("ok")
    assert outcome == ["budget_exhausted"] * (20 - made) + ["ok"] * made
    assert made == len(sim.ledger) == row["llm_calls"]
    worst = await admin.fetchval("select max(reserved_nano) from step")
    assert row["cost_nano"] <= limit
    assert made == 20 or limit - row["cost_nano"] < worst
    assert budgets[0].spent_usd == pytest.approx(row["cost_nano"] / 1e9)
    assert budgets[0].remaining_usd == pytest.approx((limit - row["cost_nano"]) / 1e9)


async def test_a_failed_call_gives_its_reservation_back(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """A budget for one call at a time allows call after failed call; each is released in the ledger."""

    @tollway.agent(max_attempts=1)
    async def persistent(run: tollway.Run) -> str:
        for _ in range(3):
            with pytest.raises(LlmError, match="500"):
                await run.llm("hello", tier="broken", max_tokens=100)
        return (await run.llm("hello", max_tokens=100)).text

    async with make_crew() as one:
        run_id = await one.submit("persistent", budget_nano=70_000)
        row = await ended(admin, run_id)
    assert row["state"] == "succeeded", row["error_message"]
    assert await ledger_of(admin, run_id) == ["release", "release", "release", "settle"]


async def test_an_answer_comes_back_in_its_type(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """`returns` makes the answer fit a type; the reply tells usage, cost and route, and so does the run's row."""

    @tollway.agent
    async def typed(run: tollway.Run, words: list[str]) -> dict[str, Any]:
        reply = await run.llm(f"Choose of {words}", returns=dict[str, int] | list[int] | bool, tier="fast")
        assert isinstance(reply.parsed, dict | list | bool)
        return {"route": reply.route, "cost": reply.cost_usd, "tokens": reply.usage.output_tokens, "id": run.id}

    async with make_crew() as one:
        run_id = await one.submit("typed", input=b'["a", "b"]')
        row = await ended(admin, run_id)
    output = json.loads(row["output"])
    assert output["route"] == "fast"
    assert output["cost"] == pytest.approx(row["cost_nano"] / 1e9)
    assert (output["tokens"], output["id"]) == (row["output_tokens"], str(run_id))


async def test_tasks_run_where_they_belong(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Plain functions run in a thread, async ones in the loop; both come back as JSON carries them."""
    loop_thread = threading.get_ident()

    def plain(number: int) -> tuple[int, bool]:
        return number, threading.get_ident() != loop_thread

    async def coroutine(*numbers: int) -> dict[str, Any]:
        return {"sum": sum(numbers), "in_loop": threading.get_ident() == loop_thread, "pair": (1, 2)}

    @tollway.agent
    async def worker(run: tollway.Run) -> list[Any]:
        return [
            await run.task("plain", plain, 7),
            await run.task("coroutine", coroutine, 1, 2),
            await run.task("lambda", lambda: coroutine(5)),
        ]

    async with make_crew() as one:
        row = await ended(admin, await one.submit("worker"))
        assert one.metrics.steps.value("task", "done") == 3
    several = {"sum": 3, "in_loop": True, "pair": [1, 2]}
    assert json.loads(row["output"]) == [[7, True], several, {**several, "sum": 5}]


async def test_a_task_whose_result_json_cannot_carry_fails(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """The step is failed with the reason, and the attempt ends as an error."""

    @tollway.agent(max_attempts=1)
    async def odd(run: tollway.Run) -> Any:
        return await run.task("odd", object)

    async with make_crew() as one:
        run_id = await one.submit("odd")
        row = await ended(admin, run_id)
    assert (row["state"], row["error_code"]) == ("dead", "TypeError")
    assert await steps_of(admin, run_id) == [("1", "odd", "failed")]


async def test_progress_is_kept_as_the_agents_event(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Any JSON value becomes an event of the agent, in order."""

    @tollway.agent
    async def chatty(run: tollway.Run) -> None:
        for data in ({"done": 1}, "text", None, [1.5]):
            await run.progress(data)

    async with make_crew() as one:
        run_id = await one.submit("chatty")
        await ended(admin, run_id)
    assert await data_of(admin, run_id, "progress") == [{"done": 1}, "text", None, [1.5]]
    assert await admin.fetchval("select distinct actor_kind from event where type = 'progress'") == "agent"


async def test_a_failed_attempt_is_tried_again_later(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """`Retry` sets the moment; the failed attempt's steps are replayed by the next, whose number is one higher."""
    attempts: list[int] = []

    @tollway.agent
    async def again(run: tollway.Run) -> int:
        attempts.append(run.attempt)
        number = await run.task("once", lambda: len(attempts))
        if run.attempt == 1:
            raise tollway.Retry(after_s=0.01)
        return number

    async with make_crew() as one:
        run_id = await one.submit("again")
        await until_true(lambda: admin.fetchval("select gate = 'time' and errors = 1 from queue"))
        await admin.execute("update queue set gate = null")
        one.broadcast.publish("queue", "standard")
        row = await ended(admin, run_id)
        await until(lambda: one.worker.running == 0)
        assert one.metrics.runs_returned.value("standard", "retried") == 1
        assert one.metrics.runs_claimed.value("standard") == 2
    assert (row["state"], row["output"], row["attempt"], attempts) == ("succeeded", b"1", 2, [1, 2])
    (told,) = await data_of(admin, run_id, "retried")
    assert (told["reason"], told["code"], told["delay_s"]) == ("error", "retry", 0.01)


async def test_claims_whose_answer_was_lost_are_given_back(
    agents: Registry, make_crew, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the record says this worker holds, but it knows nothing of, is queued again and then done."""
    monkeypatch.setattr(worker_module, "TRUE_UP_EVERY_S", 0.05)
    monkeypatch.setattr(worker_module, "RECONCILE_EVERY_S", 0.05)

    @tollway.agent
    async def plain(run: tollway.Run) -> int:
        return run.attempt

    async with make_crew(started=False) as one:
        run_id = await one.submit("plain")
        assert len((await claim(one.claims, agent="plain")).claims) == 1  # and nobody takes it
        await one.worker.start()
        row = await ended(admin, run_id)
    assert (row["state"], row["output"]) == ("succeeded", b"1")
    assert await event_types(admin, run_id) == ["accepted", "claimed", "handed_back", "claimed", "succeeded"]


async def test_lines_are_trued_up_to_what_runs_cost(
    agents: Registry, make_crew, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a run its line's virtual time is its true cost over the tenant's weight, not the estimate (P7)."""
    monkeypatch.setattr(worker_module, "TRUE_UP_EVERY_S", 0.05)
    await admin.execute("update tenant set weight = 4 where id = 'default'")

    @tollway.agent
    async def paying(run: tollway.Run) -> None:
        await run.llm("hello")

    async with make_crew() as one:
        row = await ended(admin, await one.submit("paying", est_nano=1_000_000))
        assert row["cost_nano"] not in (0, 1_000_000)
        await until_true(
            lambda: admin.fetchval("select abs(vtime - $1) < 1 from flow", row["cost_nano"] / 4), within_s=5
        )


async def test_a_batch_flood_leaves_the_other_lanes_their_share(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """With the batch lane backed up, it borrows the idle shares but for their reserves, which others find free (P6)."""
    gate = asyncio.Event()

    @tollway.agent
    async def holding(run: tollway.Run) -> None:
        await gate.wait()

    async with make_crew(slots=20, shares={"interactive": 0.3, "standard": 0.2, "batch": 0.1}) as one:
        flood = [await one.submit("holding", lane="batch") for _ in range(30)]
        await until(lambda: one.worker.running == 17)
        quick = [await one.submit("holding", lane="interactive") for _ in range(8)]
        await until(lambda: one.worker.running == 19)
        assert one.worker._held.lanes == {"batch": 17, "interactive": 2}
        gate.set()
        for run_id in flood + quick:
            assert (await ended(admin, run_id))["state"] == "succeeded"


async def test_what_a_worker_counts(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Claims, ends, durations, flushes and slots held are counted as they happen."""
    gate = asyncio.Event()

    @tollway.agent
    async def counted(run: tollway.Run) -> None:
        await run.task("nothing", lambda: None)
        await gate.wait()

    async with make_crew() as one:
        runs = [await one.submit("counted", lane="batch") for _ in range(3)]
        await until(lambda: one.worker.running == 3)
        assert ("tollway_runs_running", 3) in [
            (name, rows[0][1]) for name, rows in one.metrics.snapshot().items() if name == "tollway_runs_running"
        ]
        gate.set()
        for run_id in runs:
            await ended(admin, run_id)
        await until(lambda: one.worker.running == 0)
        metrics = one.metrics
        assert metrics.runs_claimed.value("batch") == metrics.runs_ended.value("batch", "succeeded") == 3
        ((labels, durations),) = metrics.run_seconds.rows()
        assert (labels, sum(durations[:-1])) == (("batch",), 3)
        assert 0 < durations[-1] < 60
        rows = dict(metrics.flush_rows.rows())
        assert rows[("complete",)][-1] == 3
        assert rows[("journal",)][-1] >= 3
        assert {labels for labels, _ in metrics.flush_seconds.rows()} >= {("journal",), ("complete",)}


async def test_an_agent_that_hangs_leaves_slots_to_the_others(
    agents: Registry, make_crew, admin: asyncpg.Connection
) -> None:
    """P6: of several agents one holds its part of the slots and no more, and the others' runs start at once."""
    gate = asyncio.Event()

    @tollway.agent
    async def hanging(run: tollway.Run) -> None:
        await gate.wait()

    @tollway.agent
    async def well(run: tollway.Run) -> str:
        return "done"

    async with make_crew(slots=20, shares={}, bulkheads=Bulkheads(agent_share_max=0.8)) as one:
        flood = [await one.submit("hanging") for _ in range(30)]
        await until(lambda: one.worker.running == 16)
        for _ in range(3):
            assert (await ended(admin, await one.submit("well")))["state"] == "succeeded"
        assert one.worker.running == 16
        gate.set()
        for run_id in flood:
            assert (await ended(admin, run_id))["state"] == "succeeded"


async def test_old_work_moves_below_a_saturated_lane(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """P7: a lane without a share, below one that could take every slot, is served once its work has aged."""

    @tollway.agent
    async def brief(run: tollway.Run) -> None:
        await asyncio.sleep(0.01)

    async with make_crew(slots=2, shares={}, age_after_s={"batch": 0.3}, started=False) as one:
        patient = [new_run(agent="brief", lane="batch") for _ in range(5)]
        await accept_all(one.database, [*(new_run(agent="brief", lane="interactive") for _ in range(1500)), *patient])
        await one.worker.start()
        for run in patient:
            assert (await ended(admin, run.id))["state"] == "succeeded"
        assert await admin.fetchval("select count(*) from queue where lane = 'interactive'") > 0


async def test_a_capped_tenants_runs_follow_one_another(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """With `max_running` two workers run as many of a tenant together, the next as soon as one ends, to the last."""
    at_once = most = 0

    @tollway.agent
    async def counting(run: tollway.Run) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.005)
        at_once -= 1

    async with make_crew() as one, make_crew() as _:
        await put_tenant(one.database, "default", {"max_running": 3})
        runs = [await one.submit("counting") for _ in range(60)]
        for run_id in runs:
            assert (await ended(admin, run_id))["state"] == "succeeded"
        assert most == 3
        assert await admin.fetchval("select max(state) from flow") < 3


async def test_what_a_worker_tells_of_its_service(agents: Registry, make_crew, admin: asyncpg.Connection) -> None:
    """Claims, ends and seconds in a slot are counted by lane and agent, however runs end; what runs now is told too."""
    let_go = asyncio.Event()

    @tollway.agent
    async def patient(run: tollway.Run, fails: bool) -> None:
        await let_go.wait()
        if fails:
            raise tollway.Reject("no")

    async with make_crew() as one:
        runs = [await one.submit("patient", input=fails) for fails in (b"true", b"false")]
        await until(lambda: one.worker.running == 2)
        await until(lambda: one.worker.served["standard"]["patient"][4] > 0)  # seconds are told to the millisecond
        assert one.worker.served["standard"]["patient"][:4] == [2, 0, 0, 2]
        let_go.set()
        for run_id in runs:
            await ended(admin, run_id)
        await until(lambda: one.worker.running == 0)
        claimed, ended_so_far, busy_s, running, elapsed_s = one.worker.served["standard"]["patient"]
        assert (claimed, ended_so_far, running, elapsed_s) == (2, 2, 0, 0)
        assert busy_s > 0
