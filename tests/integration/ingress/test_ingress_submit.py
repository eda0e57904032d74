"""Submitting and reading runs over HTTP, on the real record."""

import asyncio
from typing import Any

import pytest

from asgi_client import AsgiClient
from ingress_kit import ApiHarness
from tollway.record.accept import NewRun

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


async def test_a_submitted_run_reads_as_it_was_answered(admin: AsgiClient) -> None:
    """The 202 of a submit and a read right after it show the same document, with every field of the contract."""
    body = {"agent": "triage", "input": {"text": "hé\u2028llo"}, "metadata": {"user": "u1", "n": 2}, "delay_s": 30}
    answer = await admin.post("/v1/runs", body)
    assert answer.status == 202
    run = answer.json
    assert run["input"] == body["input"]
    assert run["metadata"] == body["metadata"]
    assert run["state"] == "queued"
    assert run["tenant"] == "default"
    assert run["trace_id"] == run["id"].replace("-", "")
    assert run["blocked"]["reason"] == "time"
    assert set(run) == {
        *("id", "tenant", "agent", "version", "lane", "state", "blocked", "input", "output", "error", "attempt"),
        *("metadata", "trace_id", "usage", "degraded", "replay_of", "created_at", "predicted_start_at", "started_at"),
        "ended_at",
    }
    read = await admin.get(f"/v1/runs/{run['id']}")
    assert read.status == 200
    assert read.json == run
    assert int(read.headers["content-length"]) == len(read.body)


@pytest.mark.parametrize(
    ("body", "refusal", "path"),
    [
        (b"{", (400, "malformed_json"), None),
        (b"[]", (422, "invalid_input"), ""),
        (b'{"agent":"echo"}', (422, "invalid_input"), "input"),
        (b'{"agent":"echo","input":1,"nope":1}', (422, "invalid_input"), "nope"),
        (b'{"agent":"nobody","input":1}', (422, "unknown_agent"), None),
        (b'{"agent":"echo","input":1,"lane":"fast"}', (422, "unknown_lane"), None),
        (b'{"agent":"triage","input":{"text":1}}', (422, "invalid_input"), "input.text"),
        (b'{"agent":"echo","input":NaN}', (400, "malformed_json"), None),
        (b'{"agent":"echo","input":1e999}', (422, "invalid_input"), "input"),
        (b'{"agent":"echo","input":["a\\u0000b"]}', (422, "invalid_input"), "input.0"),
        (b'{"agent":"echo","input":{"x":"\\ud800"}}', (422, "invalid_input"), "input.x"),
        (b'{"agent":"echo","input":"\xff"}', (400, "malformed_json"), None),
        (b'{"agent":"echo","input":[' + b"9" * 30 + b"]}", (422, "invalid_input"), "input.0"),
        (b'{"agent":"echo","input":' + b"[" * 70 + b"]" * 70 + b"}", (422, "too_deep"), None),
        (b'{"agent":"echo","input":' + b"[" * 90_000 + b"]" * 90_000 + b"}", (422, "too_deep"), None),
        (b'{"agent":"echo","input":1,"delay_s":-1}', (422, "invalid_input"), "delay_s"),
        (b'{"agent":"echo","input":1,"ttl_s":0}', (422, "invalid_input"), "ttl_s"),
        (b'{"agent":"echo","input":1,"deadline_s":0}', (422, "invalid_input"), "deadline_s"),
        (b'{"agent":"echo","input":1,"max_attempts":0}', (422, "invalid_input"), "max_attempts"),
        (b'{"agent":"echo","input":1,"max_attempts":101}', (422, "invalid_input"), "max_attempts"),
        (b'{"agent":"echo","input":1,"budget_usd":-0.1}', (422, "invalid_input"), "budget_usd"),
        (b'{"agent":"echo","input":1,"priority_s":1e300}', (422, "invalid_input"), "priority_s"),
        (b'{"agent":"echo","input":1,"metadata":[]}', (422, "invalid_input"), "metadata"),
        (b'{"agent":"echo","input":1,"concurrency_policy":"queue"}', (422, "invalid_input"), "concurrency_policy"),
        (
            b'{"agent":"echo","input":1,"concurrency_key":"k","concurrency_policy":"x"}',
            (422, "invalid_input"),
            "concurrency_policy",
        ),
        (b'{"agent":"echo","input":1,"webhook":{"url":"ftp://x"}}', (422, "invalid_input"), "webhook.url"),
        (b'{"agent":"echo","input":1,"webhook":{"url":"/relative"}}', (422, "invalid_input"), "webhook.url"),
    ],
)
async def test_bad_bodies_are_refused_with_a_reason_and_leave_nothing(
    admin: AsgiClient, harness: ApiHarness, body: bytes, refusal: tuple[int, str], path: str | None
) -> None:
    """P11: each bad body gets its code and names the place; nothing is stored."""
    answer = await admin.send("POST", "/v1/runs", raw=body, headers={"idempotency-key": "k"})
    assert (answer.status, answer.code) == refusal
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["detail"]
    if path is not None:
        assert answer.json["errors"][0]["path"] == path
    async with harness.database.connection() as connection:
        for table in ("run", "queue", "event", "idempotency", "flow"):
            assert await connection.fetchval(f"select count(*) from {table}") == 0


async def test_depth_counts_brackets_outside_of_texts_only(admin: AsgiClient) -> None:
    """A text full of brackets and quotes is no nesting."""
    answer = await admin.post("/v1/runs", {"agent": "echo", "input": '[{"\\' * 200})
    assert answer.status == 202


async def test_requests_without_what_they_need_are_refused(admin: AsgiClient, harness: ApiHarness) -> None:
    """Content type, size, key and scope are checked, each with its own status."""
    body = {"agent": "echo", "input": 1}
    assert (await admin.send("POST", "/v1/runs", body, headers={"content-type": "text/plain"})).status == 415
    large = b'{"agent":"echo","input":"' + b"x" * 4_194_304 + b'"}'
    assert (await admin.send("POST", "/v1/runs", raw=large)).code == "too_large"
    assert (await AsgiClient(harness.api).post("/v1/runs", body)).status == 401
    assert (await AsgiClient(harness.api, "tw_wrong").get(f"/v1/runs/{UNKNOWN}")).status == 401
    assert (await admin.get(f"/v1/runs/{UNKNOWN}")).code == "not_found"
    assert (await admin.get("/v1/runs/none")).code == "not_found"
    assert (await admin.send("DELETE", f"/v1/runs/{UNKNOWN}")).headers["allow"] == "GET, HEAD"
    assert (await admin.send("DELETE", "/v1/runs")).headers["allow"] == "GET, HEAD, POST"
    assert (await admin.get("/nowhere")).code == "not_found"
    assert (await admin.post("/v1/runs", body, idempotency_key='""')).code == "invalid_input"
    assert (await admin.post("/v1/runs", body, prefer="wait=61")).code == "invalid_input"


async def test_an_idempotency_key_makes_one_run(admin: AsgiClient) -> None:
    """Same key and meaning, also at once: one run, and the repeats say so; another body is a conflict."""
    body = {"agent": "echo", "input": {"a": 1, "b": 2}}
    answers = await asyncio.gather(*(admin.post("/v1/runs", body, idempotency_key='"k1"') for _ in range(10)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 9
    again = await admin.send(
        "POST", "/v1/runs", raw=b'{ "input": {"b":2,"a":1}, "agent":"echo"}', headers={"idempotency-key": "k1"}
    )
    assert again.json == answers[0].json
    other = await admin.post("/v1/runs", {"agent": "echo", "input": 3}, idempotency_key="k1")
    assert (other.status, other.code) == (409, "idempotency_conflict")


async def test_a_tenant_sees_its_own_runs_only(admin: AsgiClient, harness: ApiHarness) -> None:
    """Another tenant's run is not there; an admin acts for a tenant by header, which must exist."""
    await admin.put("/v1/tenants/acme", {})
    await admin.put("/v1/tenants/globex", {})
    made = await admin.post("/v1/tenants/acme/keys", {"name": "k", "scopes": ["submit", "read"]})
    acme = AsgiClient(harness.api, made.json["key"])
    run = (await acme.post("/v1/runs", {"agent": "echo", "input": 1})).json
    assert run["tenant"] == "acme"
    assert (await acme.get(f"/v1/runs/{run['id']}")).status == 200
    assert (await admin.get(f"/v1/runs/{run['id']}")).status == 200
    assert (await admin.get(f"/v1/runs/{run['id']}", x_tollway_tenant="globex")).status == 404
    assert (await admin.get(f"/v1/runs/{run['id']}/events", x_tollway_tenant="globex")).status == 404
    assert (await admin.get("/v1/runs", x_tollway_tenant="nobody")).status == 404
    assert (await acme.get("/v1/runs", x_tollway_tenant="globex")).status == 403
    assert (await acme.get("/v1/runs?tenant=globex")).status == 403
    assert (await acme.post(f"/v1/runs/{run['id']}/cancel")).code == "forbidden"
    for_globex = await admin.post("/v1/runs", {"agent": "echo", "input": 1}, x_tollway_tenant="globex")
    assert for_globex.json["tenant"] == "globex"
    assert [item["id"] for item in (await acme.get("/v1/runs")).json["items"]] == [run["id"]]
    assert len((await admin.get("/v1/runs")).json["items"]) == 2


async def test_a_paused_tenant_keeps_its_runs_and_says_why(admin: AsgiClient, harness: ApiHarness) -> None:
    """Runs of a paused tenant are accepted and wait behind its gate, old lines and new ones."""
    await admin.put("/v1/tenants/acme", {"weight": 2})
    before = await admin.post("/v1/runs", {"agent": "echo", "input": 1}, x_tollway_tenant="acme")
    paused = await admin.put("/v1/tenants/acme", {"paused": True})
    assert (paused.json["paused"], paused.json["weight"]) == (True, 2.0)
    after = await admin.post("/v1/runs", {"agent": "triage", "input": {"text": "x"}}, x_tollway_tenant="acme")
    blocked = {"reason": "tenant", "key": "acme", "until": None}
    assert after.json["blocked"] == blocked
    assert (await admin.get(f"/v1/runs/{before.json['id']}")).json["blocked"] == blocked
    async with harness.database.connection() as connection:
        assert {row[0] for row in await connection.fetch("select state from flow")} == {2}
        await admin.put("/v1/tenants/acme", {"paused": False})
        assert {row[0] for row in await connection.fetch("select state from flow")} == {0}
    assert (await admin.get(f"/v1/runs/{before.json['id']}")).json["blocked"] is None


async def test_a_batch_answers_each_item_in_order(admin: AsgiClient) -> None:
    """Good and bad items stand side by side; NDJSON is the same."""
    good, bad = {"agent": "echo", "input": 1, "idempotency_key": "k"}, {"agent": "nobody", "input": 1}
    answer = await admin.post("/v1/runs/batch", {"runs": [good, bad, good, {"agent": "echo"}]})
    assert answer.status == 200
    results = answer.json["results"]
    assert [result["status"] for result in results] == [202, 422, 202, 422]
    assert results[0]["run"]["id"] == results[2]["run"]["id"]
    assert results[1]["error"]["code"] == "unknown_agent"
    lines = b'{"agent":"echo","input":2}\n\nnot json\n'
    answer = await admin.send("POST", "/v1/runs/batch", raw=lines, headers={"content-type": "application/x-ndjson"})
    assert [result["status"] for result in answer.json["results"]] == [202, 400]


async def test_draining_and_overload_are_said(admin: AsgiClient, harness: ApiHarness) -> None:
    """A stopping process refuses work with 503 and when to come again, and still answers reads."""
    run = (await admin.post("/v1/runs", {"agent": "echo", "input": 1})).json
    harness.api.context.gatekeeper.lag_s = 5.0
    answer = await admin.post("/v1/runs", {"agent": "echo", "input": 1})
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "overloaded", "1")
    assert answer.headers["retry-after-ms"] == "1000"
    harness.api.drain()
    answer = await admin.post("/v1/runs", {"agent": "echo", "input": 1})
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "draining", "1")
    assert (await admin.get(f"/v1/runs/{run['id']}")).status == 200
    assert (await admin.get("/readyz")).status == 503


async def test_a_batch_does_not_stand_whole_before_a_single_submit(harness: ApiHarness, admin: AsgiClient) -> None:
    """P6: of a large batch only some items are on their way into the record at a time, so others get in between."""
    most, accepts = 0, harness.services.accepts
    accept = accepts.accept

    def watched(run: NewRun) -> Any:
        nonlocal most
        most = max(most, len(accepts))
        return accept(run)

    accepts.accept = watched  # type: ignore[method-assign]
    answer = await admin.post("/v1/runs/batch", {"runs": [{"agent": "echo", "input": 1} for _ in range(2000)]})
    assert [result["status"] for result in answer.json["results"]] == [202] * 2000
    assert 50 <= most <= 200
