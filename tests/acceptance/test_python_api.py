"""What agents may do, as their authors and callers see it, through a whole Tollway."""

import json
import os
import re
import signal
from datetime import datetime
from typing import Any

import pytest
from stack_kit import CHANGING, Http, Stack, until


def types(http: Http, run: dict[str, Any]) -> list[str]:
    return [event["type"] for event in http.events(run["id"])]


def test_types(http: Http) -> None:
    """A typed input arrives as its type and a typed output leaves as JSON; the agent's settings are the run's."""
    run = http.result("greet", {"name": "Ada"})
    assert run["state"] == "succeeded", run
    assert run["output"] == {"text": "Hello Ada", "to": {"name": "Ada", "age": 0}}
    assert (run["version"], run["lane"], run["attempt"], run["error"]) == ("7", "interactive", 1, None)
    assert run["input"] == {"name": "Ada"}


def test_an_agent_without_input(http: Http) -> None:
    """`async def f(run)` takes null and nothing else; without a return value the output is null."""
    run = http.result("nothing")
    assert (run["state"], run["output"]) == ("succeeded", None)
    http.post("/v1/runs", {"agent": "nothing", "input": 1}).problem(422, "invalid_input")


@pytest.mark.parametrize("value", [None, 0, -1.5, "", 'ünï💡"\\\n', [], {}, {"a": [1, {"b": None}]}, 2**63, True])
def test_json_goes_through_unchanged(http: Http, value: Any) -> None:
    """Whatever JSON is submitted reaches the agent and comes back the same."""
    run = http.result("echo", value)
    assert (run["input"], run["output"]) == (value, value)


def test_reject_fails_for_good(http: Http) -> None:
    """`raise Reject` ends the run as failed at its first attempt, with its reason."""
    run = http.result("troubled", {"how": "reject"})
    assert (run["state"], run["attempt"], run["output"]) == ("failed", 1, None)
    assert run["error"] == {"code": "rejected", "message": "I will not"}
    assert types(http, run) == ["accepted", "claimed", "failed"]


def test_retry_comes_back_when_asked(http: Http) -> None:
    """`raise Retry(after_s)` is tried again no sooner than that, and meanwhile the run says what it waits for."""
    run_id = http.submit("troubled", {"how": "retry", "after_s": 1.0})["id"]
    waiting = until(lambda: (run := http.run(run_id))["blocked"] and run, "the pause")
    assert (waiting["state"], waiting["blocked"]["reason"]) == ("queued", "time")
    run = http.ended(run_id)
    assert (run["state"], run["attempt"], run["output"]) == ("succeeded", 2, {"attempt": 2})
    retried, claimed = http.events(run_id)[2:4]
    assert (retried["type"], retried["data"]["reason"], retried["data"]["message"]) == ("retried", "error", "not yet")
    assert claimed["type"] == "claimed"
    gap = datetime.fromisoformat(claimed["at"]) - datetime.fromisoformat(retried["at"])
    assert gap.total_seconds() >= 1.0


def test_an_exception_is_tried_again(http: Http) -> None:
    """Any exception costs an attempt; a later attempt that succeeds makes the run succeed."""
    run = http.result("troubled", {"times": 1})
    assert (run["state"], run["attempt"], run["error"]) == ("succeeded", 2, None)
    assert types(http, run) == ["accepted", "claimed", "retried", "claimed", "succeeded"]


def test_an_exception_is_told_to_who_runs_the_agent(http: Http, stack: Stack) -> None:
    """The log names an exception's kind, file and line with the run, and nothing of what the run holds."""
    run = http.result("troubled", {"times": 1})
    lines = until(lambda: [line for line in stack.log.read_text().splitlines() if run["id"] in line], "the line")
    (told,) = map(json.loads, lines)
    assert (told["event"], told["agent"], told["error"], told["attempt"]) == (
        "agent.raised", "troubled", "RuntimeError", 1,
    )  # fmt: skip
    assert re.search(r"contract_agents\.py:\d+$", told["place"])
    assert "failed" not in lines[0]


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("raise", "RuntimeError", "attempt 2 failed"),
        ("llm", "unknown_tier", "no_such_tier"),
        ("output", "PydanticSerializationError", "object"),
        ("cancel", "cancelled_itself", "cancelled"),
        ("retry", "retry", "not yet"),
    ],
)
def test_attempts_exhausted_is_dead(http: Http, how: str, code: str, says: str) -> None:
    """When the last attempt ends in an error the run is dead, with that error."""
    run = http.result("troubled", {"times": 9, "how": how}, max_attempts=2)
    assert (run["state"], run["attempt"]) == ("dead", 2), run
    assert run["error"]["code"] == code
    assert says in run["error"]["message"]


def test_a_timeout_is_an_error(http: Http) -> None:
    """An attempt beyond the agent's timeout is stopped and counts as an error."""
    run = http.result("hasty")
    assert (run["state"], run["attempt"]) == ("dead", 2)
    assert run["error"] == {"code": "timeout", "message": "the attempt took longer than 0.2 s"}


def test_a_running_run_expires(http: Http) -> None:
    """Past its deadline a started run is stopped and becomes expired, without another attempt."""
    run = http.result("slow", 60, deadline_s=0.5)
    assert (run["state"], run["error"]["code"], run["attempt"]) == ("expired", "expired", 1)
    assert types(http, run)[-1] == "expired"


@pytest.mark.parametrize("limit", ["deadline_s", "ttl_s"])
def test_a_queued_run_expires(http: Http, limit: str) -> None:
    """Past its deadline, or queued beyond its ttl, a run that never began becomes expired."""
    run = http.result("echo", 1, delay_s=600, **{limit: 0.5})
    assert (run["state"], run["started_at"], run["output"]) == ("expired", None, None)
    assert types(http, run) == ["accepted", "expired"]


def test_ttl_does_not_stop_a_started_run(http: Http) -> None:
    """`ttl_s` bounds the wait in the queue only."""
    assert http.result("slow", 1.2, ttl_s=1.0)["state"] == "succeeded"


def test_a_delay_is_kept(http: Http) -> None:
    """`delay_s` starts no sooner; until then the run says until when."""
    run = http.submit("echo", 1, delay_s=1)
    assert run["blocked"]["reason"] == "time"
    assert run["blocked"]["until"] > run["created_at"]
    ended = http.ended(run["id"])
    waited = datetime.fromisoformat(ended["started_at"]) - datetime.fromisoformat(ended["created_at"])
    assert waited.total_seconds() >= 0.999


def test_a_call_to_a_model(http: Http) -> None:
    """`run.llm` answers with text, route, tokens and cost, and the run's usage and steps say the same."""
    run = http.result("ask", "How are you?")
    assert run["state"] == "succeeded", run
    reply, usage = run["output"], run["usage"]
    assert reply["text"]
    assert (usage["llm_calls"], usage["steps"], usage["output_tokens"]) == (1, 1, reply["tokens"])
    assert usage["cost_nano"] > 0
    assert usage["cost_usd"] == pytest.approx(reply["cost_usd"])
    (step,) = http.steps(run["id"])
    assert (step["n"], step["kind"], step["name"], step["state"], step["calls"]) == (1, "llm", "llm", "done", 1)
    assert step["route"] == reply["route"]
    intent, done = (e for e in http.events(run["id"]) if e["type"].startswith("step."))
    assert (intent["data"]["name"], done["data"]["route"]) == ("llm", reply["route"])


def test_a_typed_answer(http: Http) -> None:
    """`returns=` gives the model's answer as that type."""
    run = http.result("judge", "What a day")
    assert run["state"] == "succeeded", run
    assert run["output"] in ("good", "bad")
    assert http.steps(run["id"])[0]["name"] == "mood"


def test_a_budget_stops_a_call(http: Http) -> None:
    """A run whose budget does not cover a call's worst case makes none, and nothing is charged."""
    run = http.result("ask", "hello", budget_usd=0.000000001, max_attempts=1)
    assert (run["state"], run["error"]["code"]) == ("dead", "budget_exhausted"), run
    assert run["usage"]["cost_nano"] == 0
    assert http.steps(run["id"]) == []


def test_tasks_and_branches_happen_once(http: Http) -> None:
    """Tasks (in a thread or the loop) and the branches of a gather are journaled: a second attempt repeats none."""
    plain = http.result("journey", False)
    assert plain["state"] == "succeeded", plain
    run = http.result("journey", True)
    assert (run["state"], run["attempt"]) == ("succeeded", 2), run
    steps = http.steps(run["id"])
    assert len(steps) == 8
    assert all((step["kind"], step["state"], step["attempt"]) == ("task", "done", 1) for step in steps)
    assert sorted(step["name"] for step in steps) == ["again"] * 3 + ["async"] + [f"branch {i}" for i in range(3)] + [
        "sync"
    ]
    assert [pair[0][0] for pair in run["output"]["branches"]] == [0, 1, 2]
    ended_first = next(event["at"] for event in http.events(run["id"]) if event["type"] == "retried")
    limit = datetime.fromisoformat(ended_first).timestamp() * 1e9 + 1e9
    assert run["output"]["first"][1] < limit
    assert types(http, run).count("step.intent") == 8


def test_progress_is_an_event(http: Http) -> None:
    """`run.progress` is kept as an event of the agent's."""
    run = http.result("journey", False)
    (event,) = (event for event in http.events(run["id"]) if event["type"] == "progress")
    assert (event["data"], event["actor"]["kind"]) == ({"done": 5, "of": 5}, "agent")


def test_a_streamed_answer(http: Http) -> None:
    """`run.stream` yields the text in pieces; what is recorded is the whole."""
    run = http.result("tell", "A story")
    assert run["state"] == "succeeded", run
    assert run["output"]
    assert http.steps(run["id"])[0]["state"] == "done"


def test_what_an_agent_knows(http: Http) -> None:
    """id, tenant, agent, attempt, metadata, deadline and budget are the run's."""
    run = http.result("about", metadata={"source": "mail", "n": [1]}, deadline_s=60, budget_usd=0.5)
    told = run["output"]
    assert told["id"] == run["id"]
    assert (told["tenant"], told["agent"], told["attempt"]) == ("default", "about", 1)
    assert told["metadata"] == run["metadata"] == {"source": "mail", "n": [1]}
    assert (told["limit_usd"], told["remaining_usd"]) == (0.5, 0.5)
    left = datetime.fromisoformat(told["deadline"]) - datetime.fromisoformat(run["created_at"])
    assert left.total_seconds() == pytest.approx(60, abs=0.01)


@pytest.mark.parametrize("character", ["NUL", "surrogate"])
@pytest.mark.parametrize("where", ["name", "task", "task error", "progress", "output", "error"])
def test_texts_no_database_holds(http: Http, where: str, character: str) -> None:
    """NUL and half surrogate pairs, wherever an agent puts them, end the run in order; what JSON can escape is kept."""
    run = http.result("odd_texts", {"where": where, "character": character})
    kept = character == "NUL" and where in ("task", "progress", "output")
    assert run["state"] == ("succeeded" if kept else "dead"), run
    assert types(http, run)[-1] == run["state"]
    assert kept or run["error"]["message"]
    if where == "output" and kept:
        assert run["output"] == "a\0b\"'\\"


def test_code_that_no_longer_fits(http: Http, stack: Stack) -> None:
    """A run whose agent was changed under it, so that its journal does not fit, fails and says where it does not."""
    run_id = http.submit("changing", 3600)["id"]
    until(lambda: any(step["state"] == "done" for step in http.steps(run_id)), "the first step")
    file = stack.folder / "changing.py"
    file.write_text(CHANGING.replace('"before"', '"another"'))
    (worker,) = stack.pids("tollway worker")
    os.kill(worker, signal.SIGKILL)
    run = http.ended(run_id)
    assert (run["state"], run["error"]["code"]) == ("failed", "journal_mismatch"), run
    assert "'before'" in run["error"]["message"]
    assert "'another'" in run["error"]["message"]
    retried = [event for event in http.events(run_id) if event["type"] == "retried"]
    assert [event["data"]["reason"] for event in retried] == ["lost"]
    stack.ready()
