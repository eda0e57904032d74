"""P6: a flood of one lane leaves the others their share."""

from datetime import datetime
from typing import Any

from stack_kit import Http, until

RUNS = 300
SECONDS = 0.5


def moment(run: dict[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(run[name])


def test_a_flood_of_batch_leaves_the_others_their_share(http: Http) -> None:
    """While 300 batch runs fill every slot there is, interactive and standard runs overtake the waiting ones."""
    body = {"runs": [{"agent": "slow", "input": SECONDS, "lane": "batch"}] * RUNS}
    results = http.post("/v1/runs/batch", body).json["results"]
    flood = [result["run"]["id"] for result in results]
    until(lambda: http.items("/v1/runs?lane=batch&state=running&limit=500"), "the flood's start")
    wanted = {
        lane: [http.submit("echo", n, lane=lane)["id"] for n in range(10)] for lane in ("interactive", "standard")
    }
    for ids in wanted.values():
        for run_id in ids:
            assert http.ended(run_id)["state"] == "succeeded"
    runs = [http.ended(run_id) for run_id in flood]
    assert {run["state"] for run in runs} == {"succeeded"}
    last_starts = sorted(moment(run, "started_at") for run in runs)
    for ids in wanted.values():
        for run in map(http.run, ids):
            waiting = sum(moment(run, "created_at") < start for start in last_starts)
            overtaken = sum(moment(run, "started_at") < start for start in last_starts)
            assert overtaken >= waiting / 2, f"{run['lane']}: overtook {overtaken} of {waiting}"
