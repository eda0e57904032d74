"""Server-sent events and waiting answers, on the real record."""

import asyncio
import json
from typing import Any
from uuid import UUID

from tests.asgi_client import AsgiClient
from tests.integration.ingress.harness import ApiHarness

STREAM = {"accept": "text/event-stream"}


def parse(raw: bytes) -> list[dict[str, Any]]:
    """The frames that carry something."""
    frames = []
    for block in raw.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "event" in fields:
            frames.append({**fields, "data": json.loads(fields["data"])})
    return frames


async def test_a_stream_shows_events_and_tokens_to_the_end(admin: AsgiClient, harness: ApiHarness) -> None:
    """Submit-and-stream: accepted first, tokens as they come, the final event last, then the end of the answer."""
    raw, types = b"", []
    async for message in admin.stream("POST", "/v1/runs", {"agent": "echo", "input": 1}, headers=STREAM):
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            run = headers[b"location"].decode().rpartition("/")[2]
            continue
        raw += message["body"]
        now = [frame["event"] for frame in parse(raw)]
        if now != types and now[-1] == "accepted":
            assert ("watch", run) in harness.news.said
            harness.news.publish("token", json.dumps({"run": run, "text": "Hel\nlo"}))
        if now != types and now[-1] == "token":
            asyncio.get_running_loop().create_task(admin.post(f"/v1/runs/{run}/cancel"))
        types = now
    frames = parse(raw)
    assert [frame["event"] for frame in frames] == ["accepted", "token", "cancelled"]
    assert frames[0]["id"] == "1"
    assert "id" not in frames[1]
    assert frames[1]["data"]["data"] == {"text": "Hel\nlo"}
    assert frames[2]["data"]["actor"] == {"kind": "key", "id": "admin"}
    assert headers[b"content-type"] == b"text/event-stream"


async def test_a_stream_resumes_after_the_last_event_seen(admin: AsgiClient) -> None:
    """Last-Event-ID leaves out what was seen; beyond the final event the stream ends cleanly and empty."""
    run = (await admin.post("/v1/runs", {"agent": "echo", "input": 1})).json["id"]
    await admin.post(f"/v1/runs/{run}/cancel")
    path = f"/v1/runs/{run}/events"
    for last, expected in (("", [1, 2]), ("1", [2]), ("2", []), ("99999999999", [])):
        answer = await admin.send("GET", path, headers={**STREAM, **({"last-event-id": last} if last else {})})
        assert [frame["data"]["seq"] for frame in parse(answer.body)] == expected
    assert (await admin.send("GET", path, headers={**STREAM, "last-event-id": "x"})).status == 422
    assert (await admin.get(f"{path}?limit=1")).json["next"] == "1"
    assert [event["seq"] for event in (await admin.get(f"{path}?cursor=1")).json["items"]] == [2]


async def test_a_long_history_streams_whole(admin: AsgiClient, harness: ApiHarness) -> None:
    """More events than a page: all of them, in order, in a stream and over list pages."""
    run = (await admin.post("/v1/runs", {"agent": "echo", "input": 1})).json["id"]
    async with harness.database.connection() as connection:
        await connection.execute(
            "insert into event select $1, n, 'progress', now(), 'agent', 'echo', '{\"n\":\n1}'"
            " from generate_series(2, 450) n",
            UUID(run),
        )
        await connection.execute("update queue set next_seq = 451")
    await admin.post(f"/v1/runs/{run}/cancel")
    answer = await admin.send("GET", f"/v1/runs/{run}/events", headers=STREAM)
    assert [frame["data"]["seq"] for frame in parse(answer.body)] == list(range(1, 452))
    page = (await admin.get(f"/v1/runs/{run}/events?limit=500")).json
    assert (len(page["items"]), page["next"]) == (451, None)


async def test_leaving_a_stream_does_not_cancel(admin: AsgiClient, harness: ApiHarness) -> None:
    """P1: the run was accepted before the stream began and stands when the client is gone."""
    async for message in admin.stream("POST", "/v1/runs", {"agent": "echo", "input": 1}, headers=STREAM):
        if b"accepted" in message.get("body", b""):
            break
    (run,) = (await admin.get("/v1/runs")).json["items"]
    assert run["state"] == "queued"


async def test_prefer_wait_answers_when_the_run_ends(admin: AsgiClient) -> None:
    """200 with the ended run when it ends in time, else 202 with the run as it stands."""
    body = {"agent": "echo", "input": 1}
    answer = await admin.post("/v1/runs", body, prefer="respond-async, wait=0")
    assert (answer.status, answer.json["state"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=0"
    waiting = asyncio.create_task(admin.post("/v1/runs", body, prefer="wait=30"))
    runs: list[dict[str, Any]] = []
    while len(runs) < 2:
        runs = (await admin.get("/v1/runs")).json["items"]
    await admin.post(f"/v1/runs/{runs[0]['id']}/cancel")
    answer = await asyncio.wait_for(waiting, 10)
    assert (answer.status, answer.json["state"]) == (200, "cancelled")


async def test_draining_ends_streams(admin: AsgiClient, harness: ApiHarness) -> None:
    """A stopping process ends its streams, so that clients resume elsewhere."""
    run = (await admin.post("/v1/runs", {"agent": "echo", "input": 1})).json["id"]
    raw = b""
    async with asyncio.timeout(10):
        async for message in admin.stream("GET", f"/v1/runs/{run}/events", headers=STREAM):
            raw += message.get("body", b"")
            if b"accepted" in message.get("body", b""):
                harness.api.drain()
    assert [frame["event"] for frame in parse(raw)] == ["accepted"]
