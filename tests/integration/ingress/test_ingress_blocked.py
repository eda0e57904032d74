"""`blocked`: why a run waits and until when, by its own gate, its tenant, its line, or its class in the workers."""

from datetime import UTC, datetime
from typing import Any

from asgi_client import AsgiClient
from ingress_kit import ApiHarness
from runtime_kit import until
from tollway.record.processes import register_process
from tollway.record.run_document import rfc3339_epoch


async def worker_tells(harness: ApiHarness, **facts: Any) -> None:
    """One more worker is at work, and this API has read what it tells."""
    known = len(harness.sync.workers)
    await register_process(harness.database, "worker", 60.0, {"agents": ["echo", "triage"], **facts})
    harness.news.publish("settings", "")
    await until(lambda: len(harness.sync.workers) > known)


async def test_a_class_that_every_worker_holds_is_blocked(admin: AsgiClient, harness: ApiHarness) -> None:
    """Accept, look-up and list say the same; it ends with the first worker that starts such runs."""
    opens_at = harness.database.clock.now() + 600
    told = ["dependency", "crm", opens_at]
    await worker_tells(harness, doors={"echo": told})
    accepted = await admin.post("/v1/runs", {"agent": "echo", "input": 1})
    blocked = {"reason": "dependency", "key": "crm", "until": rfc3339_epoch(opens_at)}
    assert accepted.json["blocked"] == blocked
    assert (await admin.get(f"/v1/runs/{accepted.json['id']}")).json["blocked"] == blocked
    assert [run["blocked"] for run in (await admin.get("/v1/runs")).json["items"]] == [blocked]
    other = await admin.post("/v1/runs", {"agent": "triage", "input": {"text": "x"}})
    assert other.json["blocked"] is None
    await worker_tells(harness, doors={})
    assert (await admin.get(f"/v1/runs/{accepted.json['id']}")).json["blocked"] is None


async def test_the_nearest_reason_is_given(admin: AsgiClient, harness: ApiHarness) -> None:
    """A run's own gate comes before its tenant's pause, that before its full line, and that before its class."""
    await worker_tells(harness, doors={"echo": ["capacity", "fast", None]})
    delayed = (await admin.post("/v1/runs", {"agent": "echo", "input": 1, "delay_s": 60})).json
    plain = (await admin.post("/v1/runs", {"agent": "echo", "input": 1})).json

    async def reason(run: dict[str, Any]) -> tuple[str, str | None]:
        found = (await admin.get(f"/v1/runs/{run['id']}")).json["blocked"]
        return found["reason"], found["key"]

    assert await reason(plain) == ("capacity", "fast")
    async with harness.database.connection() as connection:
        await connection.execute("update flow set state = 3")
    assert await reason(plain) == ("max_running", "default")
    await admin.put("/v1/tenants/default", {"paused": True})
    assert (await reason(plain), await reason(delayed)) == (("tenant", "default"), ("time", None))
    seen = (await admin.get(f"/v1/runs/{delayed['id']}")).json["blocked"]
    assert seen == delayed["blocked"]
    assert datetime.fromisoformat(seen["until"]) > datetime.fromtimestamp(harness.database.clock.now() + 50, UTC)


async def test_routes_show_how_dependencies_stand(admin: AsgiClient, harness: ApiHarness) -> None:
    """`dependencies` beside the routes: the worst of what the workers tell."""
    shown = {"state": "open", "since": 1.0, "failure_share": 1.0, "calls": 5, "reason": "5 of 5", "opens_at": 9.0}
    await worker_tells(harness, dependencies={"crm": shown})
    await worker_tells(harness, dependencies={"crm": {**shown, "state": "closed", "failure_share": 0.0}})
    answer = await admin.get("/v1/routes")
    breaker = {"state": "open", "since": 1.0, "opens_at": 9.0, "reason": "5 of 5"}
    assert answer.json["dependencies"] == [
        {"name": "crm", "breaker": breaker, "calls": 10, "failure_share": 0.5, "processes": 2}
    ]
