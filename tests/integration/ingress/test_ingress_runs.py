"""Lists, cancelling, replaying and dead letters, on the real record; a worker's writes are made by hand."""

import pytest

from asgi_client import AsgiClient
from ingress_kit import ApiHarness, bury, hold, submit


async def test_lists_page_and_filter(admin: AsgiClient, harness: ApiHarness) -> None:
    """Newest first, page by page without gaps, filtered by state, lane and metadata; nonsense is refused."""
    runs = [
        await submit(admin, metadata={"n": n, "odd": n % 2 == 1}, lane="batch" if n < 2 else "standard")
        for n in range(7)
    ]
    await bury(harness, runs[0])
    await hold(harness, runs[1])
    seen, cursor = [], ""
    while cursor is not None:
        page = (await admin.get(f"/v1/runs?limit=3{cursor and '&cursor=' + cursor}")).json
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
    assert seen == runs[::-1]

    async def ids(query: str) -> list[str]:
        answer = await admin.get(f"/v1/runs?{query}")
        assert answer.status == 200, answer.body
        return [item["id"] for item in answer.json["items"]]

    assert await ids("state=dead") == [runs[0]]
    assert await ids("state=running") == [runs[1]]
    assert await ids("state=queued&limit=2") == [runs[6], runs[5]]
    assert await ids("lane=batch&tenant=default") == [runs[1], runs[0]]
    assert await ids("metadata.n=4") == [runs[4]]
    assert await ids("metadata.odd=true&metadata.n=3") == [runs[3]]
    assert await ids("agent=triage") == []
    made = (await admin.get(f"/v1/runs/{runs[6]}")).json["created_at"]
    assert runs[6] in await ids(f"created_after={made}")
    assert await ids("created_before=2020-01-01T00:00:00Z") == []
    for query in ("state=gone", "limit=0", "limit=501", "cursor=x", "nope=1", "created_after=noon", "metadata.=1"):
        assert (await admin.get(f"/v1/runs?{query}")).code == "invalid_input"


async def test_a_waiting_run_is_cancelled_at_once(admin: AsgiClient, harness: ApiHarness) -> None:
    """A queued run ends with its event and its webhook due; asking again is 200, another ended run is 409."""
    run = await submit(admin, webhook={"url": "https://example.com/hook"})
    answer = await admin.post(f"/v1/runs/{run}/cancel")
    assert (answer.status, answer.json["state"]) == (202, "cancelled")
    assert answer.json["ended_at"] is not None
    assert (await admin.post(f"/v1/runs/{run}/cancel")).status == 200
    events = (await admin.get(f"/v1/runs/{run}/events")).json["items"]
    assert [(event["seq"], event["type"]) for event in events] == [(1, "accepted"), (2, "cancelled")]
    assert events[1]["actor"] == {"kind": "key", "id": "admin"}
    async with harness.database.connection() as connection:
        assert await connection.fetchval("select count(*) from webhook_delivery") == 1
        assert await connection.fetchval("select count(*) from queue") == 0
    dead = await submit(admin)
    await bury(harness, dead)
    answer = await admin.post(f"/v1/runs/{dead}/cancel")
    assert (answer.status, answer.code) == (409, "run_final")


async def test_a_running_run_is_cancelled_through_its_worker(admin: AsgiClient, harness: ApiHarness) -> None:
    """The wish is on record with who wished it, and the workers are told."""
    run = await submit(admin)
    await hold(harness, run)
    answer = await admin.post(f"/v1/runs/{run}/cancel", {})
    assert (answer.status, answer.json["state"]) == (202, "running")
    assert ("cancel", run) in harness.news.said
    async with harness.database.connection() as connection:
        assert await connection.fetchval("select cancelled_by from queue") == "key:admin"


async def test_bulk_cancel_acts_on_what_was_counted(admin: AsgiClient, harness: ApiHarness) -> None:
    """Without confirm it counts; a wrong count is refused and nothing happens; the right one cancels exactly those."""
    runs = [await submit(admin, lane="batch") for _ in range(3)]
    other = await submit(admin)
    await hold(harness, runs[0])
    assert (await admin.post("/v1/runs/cancel", {"filter": {"lane": "batch"}})).json == {"count": 3}
    answer = await admin.post("/v1/runs/cancel", {"filter": {"lane": "batch"}, "confirm": 2})
    assert (answer.status, answer.code, answer.json["count"]) == (409, "confirm_mismatch", 3)
    answer = await admin.post("/v1/runs/cancel", {"filter": {"lane": "batch"}, "confirm": 3})
    assert answer.json == {"count": 3, "cancelled": 2, "cancelling": 1, "ended_before": 0, "left": 0}
    assert (await admin.get(f"/v1/runs/{other}")).json["state"] == "queued"
    for body in (
        {},
        {"filter": {"nope": "1"}},
        {"filter": {"state": "dead"}},
        {"filter": {}, "confirm": -1},
        {"filter": {"metadata": 1}},
    ):
        assert (await admin.post("/v1/runs/cancel", body)).code == "invalid_input"


async def test_a_replay_is_a_new_run_with_the_old_request(admin: AsgiClient, harness: ApiHarness) -> None:
    """From the start or a step, with the same input or another; the journal is copied without its cost."""
    run = await submit(admin, metadata={"a": 1})
    assert (await admin.post(f"/v1/runs/{run}/replay")).status == 409
    await bury(harness, run)
    shown = (await admin.get(f"/v1/runs/{run}")).json
    assert shown["usage"]["cost_usd"] == 1.500000001
    assert shown["error"] == {"code": "boom", "message": "no"}
    assert (await admin.post(f"/v1/runs/{run}/replay", {"from_step": 9})).code == "invalid_input"
    assert (await admin.post(f"/v1/runs/{run}/replay", {"from_step": 0})).code == "invalid_input"
    answer = await admin.post(f"/v1/runs/{run}/replay", {"from_step": 3, "input": {"x": [1]}})
    new = answer.json
    assert answer.status == 202
    assert (new["replay_of"], new["input"], new["metadata"]) == (run, {"x": [1]}, {"a": 1})
    read = (await admin.get(f"/v1/runs/{new['id']}")).json
    assert read["usage"]["steps"] == 2
    steps = (await admin.get(f"/v1/runs/{new['id']}/steps")).json["items"]
    assert [(step["n"], step["state"], step["cost_nano"], step["calls"]) for step in steps] == [
        (1, "done", 0, 0),
        (2, "done", 0, 0),
    ]
    again = (await admin.post(f"/v1/runs/{run}/replay")).json
    assert (await admin.get(f"/v1/runs/{again['id']}/steps")).json["items"] == []
    events = (await admin.get(f"/v1/runs/{run}/events")).json["items"]
    assert [event["type"] for event in events] == ["accepted", "dead", "replayed", "replayed"]
    assert events[2]["data"] == {"run_id": new["id"]}


@pytest.mark.parametrize("path", ["cancel", "replay", "events", "steps"])
async def test_an_unknown_run_is_not_found(admin: AsgiClient, path: str) -> None:
    """Every route of a run answers 404 for one that is not there, whatever its id looks like."""
    method = "POST" if path in ("cancel", "replay") else "GET"
    for run in ("01890a5d-ac96-774b-bcce-b302099a8057", "x", "%00", "z" * 36):
        assert (await admin.send(method, f"/v1/runs/{run}/{path}")).code == "not_found"
