"""P6 and P7 as callers see them: a flood in one lane, or of one tenant, does not hold up the others."""

from datetime import datetime
from typing import Any

from stack_kit import Http, until

FLOOD = 300
SLOTS = 100


def submit_many(http: Http, lane: str, seconds: float, count: int) -> list[str]:
    """Submit runs that hold a slot for a time; their ids."""
    runs = [{"agent": "slow", "input": seconds, "lane": lane} for _ in range(count)]
    answer = http.post("/v1/runs/batch", {"runs": runs})
    assert answer.status == 200, answer.body
    assert all(result["status"] == 202 for result in answer.json["results"])
    return [result["run"]["id"] for result in answer.json["results"]]


def ended(http: Http, ids: list[str]) -> list[dict[str, Any]]:
    """The runs once all have ended."""
    runs = [http.ended(run_id) for run_id in ids]
    assert {run["state"] for run in runs} == {"succeeded"}
    return runs


def at(run: dict[str, Any], what: str) -> datetime:
    """One of a run's times."""
    return datetime.fromisoformat(run[what])


def still_waiting(flood: list[dict[str, Any]], when: datetime) -> int:
    """How many of the flood had not begun then."""
    return sum(at(run, "started_at") > when for run in flood)


def flooded(http: Http, lane: str) -> list[str]:
    """A flood with some of it running and most of it waiting; its ids."""
    ids = submit_many(http, lane, 0.5, FLOOD)
    until(lambda: http.run(ids[0])["started_at"], "the flood to begin")
    return ids


def assert_ahead_of(flood: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Each of the others began while most of what had waited before it still did: at most a wave of slots that came
    free while it was being written went before it."""
    for run in others:
        before, after = still_waiting(flood, at(run, "created_at")), still_waiting(flood, at(run, "started_at"))
        assert before - after <= SLOTS, f"{before - after} of the flood went before a run of another line"
    assert still_waiting(flood, max(at(run, "started_at") for run in others)) > 0


def test_batch_work_does_not_hold_up_interactive_work(http: Http) -> None:
    """P6: with three times as much batch work as slots, interactive runs find the slots of their lane free."""
    flood = flooded(http, "batch")
    urgent = ended(http, submit_many(http, "interactive", 0.02, 20))
    assert_ahead_of(ended(http, flood), urgent)


def test_interactive_work_does_not_starve_batch_work(http: Http) -> None:
    """P7: the batch lane has a share of its own, whatever the interactive lane brings."""
    flood = flooded(http, "interactive")
    patient = ended(http, submit_many(http, "batch", 0.02, 10))
    assert_ahead_of(ended(http, flood), patient)


def test_a_tenants_flood_does_not_hold_up_another_tenant(http: Http) -> None:
    """P6: within a lane a tenant's few runs do not wait behind another's many."""
    big, small = http.make_key("flooding", "submit", "read"), http.make_key("modest", "submit", "read")
    flood = flooded(big, "standard")
    few = ended(small, submit_many(small, "standard", 0.02, 10))
    assert_ahead_of(ended(big, flood), few)
