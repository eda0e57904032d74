"""`tollway.Client` against a whole Tollway: what a program that submits and waits for runs sees."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from stack_kit import ADMIN_KEY, Stack, free_port

import tollway


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[tollway.Client]:
    async with tollway.Client(f"http://127.0.0.1:{stack.port}", ADMIN_KEY) as opened:
        yield opened


async def test_submit_and_result(client: tollway.Client) -> None:
    """A run is submitted, waited for, and its output, steps and events are there."""
    run = await client.submit("journey", True, metadata={"a": "b"}, lane="interactive")
    assert isinstance(run, tollway.RunView)
    assert not run.final
    assert set(await client.result(run.id, 30)) == {"first", "second", "branches"}
    ended = await client.get(run.id)
    assert (ended.state, ended.attempt, ended.succeeded) == ("succeeded", 2, True)
    assert len(await client.steps(run.id)) == 8
    assert (await client.past_events(run.id))[-1].type == "succeeded"


async def test_a_held_submit(client: tollway.Client) -> None:
    """`wait_s`, fractions of a second included, brings the ended run in one answer."""
    run = await client.submit("echo", {"x": 1}, wait_s=19.5)
    assert (run.state, run.output) == ("succeeded", {"x": 1})


async def test_failures_are_raised(client: tollway.Client) -> None:
    """A run that fails, a refusal, a server that is not there: each has its error, all are TollwayErrors."""
    run = await client.submit("troubled", {"how": "reject"})
    with pytest.raises(tollway.RunFailed, match="I will not"):
        await client.result(run.id, 30)
    with pytest.raises(tollway.ApiError) as refusal:
        await client.submit("greet", {})
    assert (refusal.value.status, refusal.value.code) == (422, "invalid_input")
    options = tollway.ClientOptions(retry_for_s=0)
    async with tollway.Client(f"http://127.0.0.1:{free_port()}", ADMIN_KEY, options=options) as nobody:
        with pytest.raises(tollway.Unreachable):
            await nobody.get(run.id)
    slow = await client.submit("slow", 3600)
    with pytest.raises(TimeoutError):
        await client.wait(slow.id, 0.2)
    assert (await client.cancel(slow.id)).id == slow.id
    assert (await client.wait(slow.id, 30)).state == "cancelled"


async def test_changes_of_the_same_at_once(client: tollway.Client) -> None:
    """Eight who each add a budget to the same tenant's list all find theirs in it; nobody's is lost."""
    await client.put_tenant("acme-many")

    def adding(agent: str) -> Callable[[dict[str, Any]], Any]:
        def change(found: dict[str, Any]) -> Any:
            kept = [{"period": "day", "agent": one["agent"], "hard_usd": one["hard_usd"]} for one in found["items"]]
            return {"budgets": [*kept, {"period": "day", "agent": agent, "hard_usd": 1}]}

        return change

    agents = [f"agent-{n}" for n in range(8)]
    path = "/v1/tenants/acme-many/budgets"
    await asyncio.gather(*(client.revise(path, adding(agent)) for agent in agents))
    assert sorted(budget["agent"] for budget in await client.budgets("acme-many")) == agents
    assert await client.put_budgets("acme-many", []) == []


async def test_following(client: tollway.Client) -> None:
    """Events come live, in order, without a gap, up to the final one."""
    run = await client.submit("journey", True)
    events = [event async for event in client.events(run.id) if event.type != "token"]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].final


async def test_many(client: tollway.Client) -> None:
    """Runs are submitted in bulk, in order, refusals among them as values, and listed with a filter."""
    results = await client.submit_many(
        [{"agent": "echo", "input": 1, "metadata": {"bulk": "yes"}}, {"agent": "nobody", "input": 1}]
    )
    accepted, refused = results
    assert isinstance(accepted, tollway.RunView)
    assert isinstance(refused, tollway.ApiError)
    assert refused.code == "unknown_agent"
    assert accepted.id in [run.id async for run in client.list(metadata={"bulk": "yes"})]
    assert (await client.wait(accepted.id, 30)).succeeded
    again = await client.replay(accepted.id, input=2)
    assert (await client.result(again.id, 30), again.replay_of) == (2, accepted.id)
