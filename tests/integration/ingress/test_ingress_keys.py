"""Concurrency keys as clients of the API meet them."""

from typing import Any

from asgi_client import AsgiClient
from ingress_kit import ApiHarness

TAKEN = "its concurrency key is taken by run {id}"


def body(policy: str | None = None, **fields: Any) -> dict[str, Any]:
    """A submit with the key `doc:7`."""
    policies = {} if policy is None else {"concurrency_policy": policy}
    return {"agent": "echo", "input": 1, "concurrency_key": "doc:7", **policies, **fields}


async def read(admin: AsgiClient, run: dict[str, Any]) -> dict[str, Any]:
    """The run as it stands."""
    found: dict[str, Any] = (await admin.get(f"/v1/runs/{run['id']}")).json
    return found


async def test_a_waiting_run_says_for_which_key(admin: AsgiClient, harness: ApiHarness) -> None:
    """Answer, read and list show the key that holds a run back; no worker is told of what cannot run."""
    first = (await admin.post("/v1/runs", body())).json
    assert first["blocked"] is None
    harness.news.said.clear()
    second = (await admin.post("/v1/runs", body())).json
    assert second["state"] == "queued"
    assert second["blocked"] == {"reason": "key", "key": "doc:7", "until": None}
    assert await read(admin, second) == second
    assert (await admin.get("/v1/runs")).json["items"][0] == second
    assert ("queue", "standard") not in harness.news.said
    harness.news.said.clear()
    assert (await admin.post(f"/v1/runs/{first['id']}/cancel")).status == 202
    assert (await read(admin, second))["blocked"] is None
    assert ("queue", "standard") in harness.news.said


async def test_cancel_newest_is_answered_as_ended(admin: AsgiClient) -> None:
    """The 202 shows the run cancelled, with the reason; so do a repeat of its key, a wait, and its history."""
    first = (await admin.post("/v1/runs", body())).json
    late = await admin.post("/v1/runs", body("cancel_newest"), **{"Idempotency-Key": "late"})
    assert late.status == 202
    assert "idempotency-replayed" not in late.headers
    run = late.json
    assert (run["state"], run["blocked"]) == ("cancelled", None)
    assert run["error"] == {"code": "concurrency_key", "message": TAKEN.format(**first)}
    assert run["ended_at"] >= run["created_at"]
    assert run["usage"]["cost_nano"] == 0
    assert await read(admin, run) == run
    again = await admin.post("/v1/runs", body("cancel_newest"), **{"Idempotency-Key": "late"})
    assert (again.status, again.headers["idempotency-replayed"], again.json) == (202, "true", run)
    waited = await admin.post("/v1/runs", body("cancel_newest"), Prefer="wait=5")
    assert (waited.status, waited.json["state"]) == (200, "cancelled")
    events = (await admin.get(f"/v1/runs/{run['id']}/events")).json["items"]
    assert [event["type"] for event in events] == ["accepted", "cancelled"]
    assert (await admin.post(f"/v1/runs/{run['id']}/cancel")).status == 200


async def test_cancel_running_takes_the_place(admin: AsgiClient) -> None:
    """A queued holder is cancelled for the newcomer, which may start at once and says so in its answer."""
    first = (await admin.post("/v1/runs", body())).json
    new = (await admin.post("/v1/runs", body("cancel_running"))).json
    assert (new["state"], new["blocked"]) == ("queued", None)
    gone = await read(admin, first)
    assert gone["state"] == "cancelled"
    assert gone["error"]["code"] == "concurrency_key"
    assert new["id"] in gone["error"]["message"]


async def test_several_of_one_key_in_a_batch(admin: AsgiClient) -> None:
    """A batch answers each as if it had come alone: the first runs, others wait, give way, or take over."""
    policies = [None, None, "cancel_newest", "cancel_running", "queue"]
    answer = await admin.post("/v1/runs/batch", {"runs": [body(policy) for policy in policies]})
    runs = [result["run"] for result in answer.json["results"]]
    reasons = [run["error"] and run["error"]["code"] for run in runs]
    assert [run["state"] for run in runs] == ["cancelled", "queued", "cancelled", "queued", "queued"]
    assert reasons == ["concurrency_key", None, "concurrency_key", None, None]
    assert [run["blocked"] and run["blocked"]["reason"] for run in runs] == [None, "key", None, None, "key"]
    assert [await read(admin, run) for run in runs] == runs


async def test_a_replay_keeps_key_and_policy(admin: AsgiClient) -> None:
    """A replayed run waits for the key of the old one, or gives way to it, and has replayed nothing then."""
    holder = (await admin.post("/v1/runs", body())).json
    waits, gives = (
        (await admin.post("/v1/runs", body())).json,
        (await admin.post("/v1/runs", body("cancel_newest"))).json,
    )
    await admin.post(f"/v1/runs/{waits['id']}/cancel")
    again = (await admin.post(f"/v1/runs/{waits['id']}/replay")).json
    assert again["blocked"] == {"reason": "key", "key": "doc:7", "until": None}
    assert again["replay_of"] == waits["id"]
    refused = (await admin.post(f"/v1/runs/{gives['id']}/replay")).json
    assert (refused["state"], refused["replay_of"]) == ("cancelled", gives["id"])
    assert refused["error"]["message"] == TAKEN.format(**holder)
    events = (await admin.get(f"/v1/runs/{gives['id']}/events")).json["items"]
    assert events[-1]["type"] == "cancelled"


async def test_a_key_of_any_text_is_kept_apart(admin: AsgiClient) -> None:
    """Keys differ by every character, and are bounded."""
    for key in ("ä", "a\u0308", "doc", "Doc", "doc ", "x" * 255):
        run = (await admin.post("/v1/runs", body(concurrency_key=key))).json
        assert run["blocked"] is None
    assert (await admin.post("/v1/runs", body(concurrency_key="x" * 256))).code == "invalid_input"
    assert (await admin.post("/v1/runs", body(concurrency_key=""))).code == "invalid_input"
