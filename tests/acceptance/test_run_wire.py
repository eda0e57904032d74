"""Calls that an agent's framework makes inside a run: each a step of it, charged to it, not paid again after a kill."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from stack_kit import Stack, until
from wire_kit import Books, Provider, gpt_at, wired


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Provider]]:
    """A Tollway with agents that use frameworks, and the provider behind it."""
    with wired(tmp_path_factory.mktemp("run-wire"), "wire_agents") as running:
        yield running


@pytest.fixture
def stack(both: tuple[Stack, Provider]) -> Stack:
    """The Tollway."""
    return both[0]


@pytest.fixture
def provider(both: tuple[Stack, Provider]) -> Iterator[Provider]:
    """The provider, quick and sound again afterwards."""
    yield both[1]
    both[1].pace()


def test_each_call_is_a_step(stack: Stack, provider: Provider) -> None:
    """Plain, streamed and parallel calls of both SDKs are steps of the run, with their money in its ledger. (P10)"""
    before = provider.totals()["cost_nano"]
    run = stack.http.result("framework", "")
    assert run["state"] == "succeeded", run
    assert len(run["output"]) == 7
    steps = stack.http.steps(run["id"])
    names = sorted(step["name"] for step in steps)
    assert names == ["anthropic.messages", "llm", *["openai.chat"] * 4, "openai.embeddings"]
    assert {step["state"] for step in steps} == {"done"}
    assert run["usage"]["llm_calls"] == run["usage"]["steps"] == 7
    assert run["usage"]["cost_nano"] == provider.totals()["cost_nano"] - before
    entries = Books(stack).rows("select kind, key_id from ledger where run_id = $1::uuid", run["id"])
    assert [entry["kind"] for entry in entries] == ["settle"] * 7
    assert all(entry["key_id"] for entry in entries)


def test_nothing_is_paid_again_after_a_kill(stack: Stack, provider: Provider, tmp_path: Path) -> None:
    """The attempt after a killed worker is given the recorded answers, streams too; no call is made again. (P2)"""
    gate = tmp_path / "gate"
    before = provider.totals()["calls"]
    submitted = stack.http.submit("framework", str(gate))
    until(lambda: [s["state"] for s in stack.http.steps(submitted["id"])] == ["done"] * 7, "its steps on record")
    os.kill(stack.pids("tollway worker")[0], signal.SIGKILL)
    gate.touch()
    run = stack.http.ended(submitted["id"])
    assert (run["state"], run["attempt"]) == ("succeeded", 2)
    assert len(stack.http.steps(run["id"])) == 7
    assert provider.totals()["calls"] == before + 7
    assert all(run["output"])
    stack.ready()


def test_the_key_dies_with_its_attempt(stack: Stack) -> None:
    """After the run its key is refused, and asking again is said to be no use. (P3)"""
    run = stack.http.result("one_call")
    address = run["output"]
    gpt = gpt_at(address["base_url"], address["api_key"])
    with pytest.raises(openai.ConflictError) as stale:
        gpt.responses.create(model="fast", input="Hi")
    assert stale.value.code == "stale_attempt"
    assert stale.value.response.headers["x-should-retry"] == "false"
    stranger = gpt_at(address["base_url"], "tw_run_guessed")
    with pytest.raises(openai.ConflictError):
        stranger.responses.create(model="fast", input="Hi")


def test_the_runs_budget_holds(stack: Stack, provider: Provider) -> None:
    """A call that the run's own budget does not cover is refused before it is made. (P4)"""
    before = provider.totals()["calls"]
    run = stack.http.result("one_call", budget_usd=0.0001, max_attempts=1)
    assert run["state"] == "dead"
    assert run["error"]["code"] == "PermissionDeniedError"
    assert "budget" in run["error"]["message"]
    assert provider.totals()["calls"] == before


def test_who_asks_again_goes_on_with_the_same_step(stack: Stack, provider: Provider) -> None:
    """An SDK that repeats a failed request repeats the step: one step, several calls, each with its entry. (P10)"""
    provider.pace(fault_rates={"status_500": 1.0})
    submitted = stack.http.submit("insistent")
    until(lambda: (steps := stack.http.steps(submitted["id"])) and steps[0]["calls"] >= 1, "the first call of the step")
    provider.pace()
    run = stack.http.ended(submitted["id"])
    assert run["state"] == "succeeded", run["error"]
    (step,) = stack.http.steps(run["id"])
    assert (step["state"], step["calls"]) == ("done", run["usage"]["llm_calls"])
    assert step["calls"] >= 2
    kinds = [
        row["kind"]
        for row in Books(stack).rows("select kind from ledger where run_id = $1::uuid order by call_id", run["id"])
    ]
    assert kinds == ["release"] * (step["calls"] - 1) + ["settle"]
