"""P1 and P2 as an agent's author meets them: a worker killed between a step's intent and its outcome."""

import os
import signal
from typing import Any

from stack_kit import Http, Stack, until


def cut(http: Http, stack: Stack, on_unknown: str) -> dict[str, Any]:
    """A run whose worker is killed in the middle of its second task; the run once it has ended."""
    run_id: str = http.submit("pay", {"on_unknown": on_unknown})["id"]
    until(lambda: [step["state"] for step in http.steps(run_id)] == ["done", "intent"], "the payment to begin")
    (worker,) = stack.pids("tollway worker")
    os.kill(worker, signal.SIGKILL)
    try:
        return http.ended(run_id)
    finally:
        stack.ready()


def test_a_cut_task_is_repeated_by_default(http: Http, stack: Stack) -> None:
    """on_unknown="retry": the cut task runs again, what was done before it does not, and its history shows both."""
    run = cut(http, stack, "retry")
    assert (run["state"], run["output"], run["attempt"]) == ("succeeded", "paid at attempt 2", 2)
    assert [(step["name"], step["state"], step["attempt"]) for step in http.steps(run["id"])] == [
        ("before", "done", 1),
        ("pay", "done", 2),
    ]
    events = http.events(run["id"])
    assert [event["data"]["n"] for event in events if event["type"] == "step.intent"] == [1, 2, 2]
    assert [event["data"]["n"] for event in events if event["type"] == "step.unknown"] == [2]
    assert [event["data"]["reason"] for event in events if event["type"] == "retried"] == ["lost"]


def test_a_cut_task_may_not_be_repeated(http: Http, stack: Stack) -> None:
    """on_unknown="fail": nobody knows whether it was done, so the run fails and names the step; nothing is repeated."""
    run = cut(http, stack, "fail")
    assert (run["state"], run["error"]["code"], run["output"]) == ("failed", "step_unknown", None)
    assert "pay" in run["error"]["message"]
    assert [(step["name"], step["state"]) for step in http.steps(run["id"])] == [("before", "done"), ("pay", "unknown")]
    assert [event["type"] for event in http.events(run["id"])].count("step.intent") == 2


def test_a_step_outside_the_runs_own_tasks(http: Http) -> None:
    """A step called from a task the agent made itself has no sure number: it is refused with the way out."""
    run = http.result("stray")
    assert (run["state"], run["error"]["code"]) == ("dead", "ForeignTask")
    assert "run.gather" in run["error"]["message"]
    assert http.steps(run["id"]) == []
