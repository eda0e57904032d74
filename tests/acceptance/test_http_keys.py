"""Concurrency keys, black-box: one run of a key at a time, and what its policies do to a run that is running."""

import uuid
from itertools import pairwise
from typing import Any

from stack_kit import Http, until


def running(http: Http, run: dict[str, Any]) -> None:
    """Wait until a run runs."""
    until(lambda: http.run(run["id"])["state"] == "running", "the run to run")


def test_runs_of_a_key_run_one_after_another(http: Http) -> None:
    """Of eight runs of a key no two overlap, and they go in the order in which they came."""
    key = uuid.uuid4().hex
    runs = [{"agent": "slow", "input": 0.05, "concurrency_key": key} for _ in range(8)]
    answer = http.post("/v1/runs/batch", {"runs": runs})
    ended = [http.ended(result["run"]["id"]) for result in answer.json["results"]]
    assert {run["state"] for run in ended} == {"succeeded"}
    for before, after in pairwise(ended):
        assert before["ended_at"] <= after["started_at"]


def test_cancel_running_stops_a_running_run(http: Http) -> None:
    """The running run is cancelled with the reason, the newest of those that take over runs, the one between never did;
    a run that only waits its turn comes last."""
    key = uuid.uuid4().hex
    old = http.submit("slow", 60, concurrency_key=key)
    running(http, old)
    patient = http.submit("slow", 0.01, concurrency_key=key)
    takeover = {"concurrency_key": key, "concurrency_policy": "cancel_running"}
    # in one batch: one by one, the first may get the key and run before the second comes
    both = [{"agent": "slow", "input": 0.02, **takeover} for _ in range(2)]
    between, new = [result["run"] for result in http.post("/v1/runs/batch", {"runs": both}).json["results"]]
    done = http.ended(new["id"])
    assert done["state"] == "succeeded"
    gone = http.ended(old["id"])
    assert (gone["state"], gone["error"]["code"]) == ("cancelled", "concurrency_key")
    assert "took its place" in gone["error"]["message"]
    assert gone["ended_at"] <= done["started_at"]
    last = http.ended(patient["id"])
    assert last["state"] == "succeeded"
    assert last["started_at"] >= done["ended_at"]
    passed_by = http.ended(between["id"])
    assert (passed_by["state"], passed_by["error"]["code"]) == ("cancelled", "concurrency_key")
    assert passed_by["started_at"] is None
    assert http.events(old["id"])[-1]["data"]["code"] == "concurrency_key"


def test_cancel_newest_gives_way_to_a_running_run(http: Http) -> None:
    """While a run of the key runs, a newcomer is answered as cancelled; when the key is free again it runs."""
    key = uuid.uuid4().hex
    given = {"concurrency_key": key, "concurrency_policy": "cancel_newest"}
    old = http.submit("slow", 60, **given)
    running(http, old)
    late = http.submit("echo", 1, **given)
    assert (late["state"], late["error"]["code"]) == ("cancelled", "concurrency_key")
    assert old["id"] in late["error"]["message"]
    assert http.post(f"/v1/runs/{old['id']}/cancel").status == 202
    http.ended(old["id"])
    assert http.result("echo", 2, **given)["output"] == 2


def test_a_delayed_run_does_not_hold_its_key(http: Http) -> None:
    """A run that is not due yet lets others of its key run before it."""
    key = uuid.uuid4().hex
    late = http.submit("echo", "late", concurrency_key=key, delay_s=600)
    assert late["blocked"]["reason"] == "time"
    assert http.result("echo", "now", concurrency_key=key)["output"] == "now"
    assert http.post(f"/v1/runs/{late['id']}/cancel").status == 202


def test_a_run_that_waits_for_its_key_may_run_out_of_time(http: Http) -> None:
    """`ttl_s` ends a run that waits for its key; the run that holds it started, and is not touched by its own."""
    key = uuid.uuid4().hex
    old = http.submit("slow", 3, concurrency_key=key, ttl_s=1)
    running(http, old)
    lapsed = http.ended(http.submit("echo", 1, concurrency_key=key, ttl_s=0.5)["id"])
    assert (lapsed["state"], lapsed["error"]["code"]) == ("expired", "expired")
    assert http.ended(old["id"])["state"] == "succeeded"
