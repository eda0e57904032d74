"""Tenants, keys and the promise that a change holds on every API process once it is answered."""

import asyncio

import pytest

from asgi_client import AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness, LocalNews, make_agent, submit
from tollway.domain.errors import ConfigError
from tollway.ingress.services import ApiOptions
from tollway.record.agents import publish_agents
from tollway.record.database import Database
from tollway.record.keys import ensure_admin_key
from tollway.record.processes import register_process


async def test_a_revoked_key_is_refused_by_every_process_after_the_answer(
    admin: AsgiClient, harness: ApiHarness, database: Database
) -> None:
    """Two processes without any news between them: a new key works, a revoked one fails on both, at once."""
    other = ApiHarness(database, LocalNews(), heartbeat_s=0.1)
    await other.api.start()
    try:
        made = (await admin.post("/v1/tenants/default/keys", {"name": "k", "scopes": ["read"]})).json
        there, here = AsgiClient(other.api, made["key"]), AsgiClient(harness.api, made["key"])
        assert ((await there.get("/v1/runs")).status, (await here.get("/v1/runs")).status) == (200, 200)
        assert (await admin.send("DELETE", f"/v1/tenants/default/keys/{made['id']}")).status == 204
        assert ((await there.get("/v1/runs")).status, (await here.get("/v1/runs")).status) == (401, 401)
        assert (await admin.send("DELETE", f"/v1/tenants/default/keys/{made['id']}")).status == 404
    finally:
        await other.api.stop()


async def test_a_process_that_cannot_beat_refuses_and_is_not_waited_for(
    admin: AsgiClient, harness: ApiHarness, database: Database
) -> None:
    """A process past its lease answers 503 until it has read again; a change waits no longer than its lease."""
    other = ApiHarness(database, LocalNews(), heartbeat_s=60.0, lease_ttl_s=0.5)
    await other.api.start()
    try:
        client = AsgiClient(other.api, ADMIN_KEY)
        assert (await client.get("/v1/tenants")).status == 200
        async with asyncio.timeout(10):
            assert (await admin.put("/v1/tenants/acme", {})).status == 201
            answer = await client.get("/v1/tenants/acme")
            assert (answer.status, answer.code) == (503, "database_unavailable")
            while answer.status == 503:
                answer = await client.get("/v1/tenants/acme")
        assert answer.json["id"] == "acme"
    finally:
        await other.api.stop()


async def test_tenants_are_made_changed_and_checked(admin: AsgiClient) -> None:
    """201 then 200; absent fields stay, null lifts a limit, nonsense names its field."""
    answer = await admin.put("/v1/tenants/acme", {"name": "Acme", "weight": 2, "max_running": 5})
    assert (answer.status, answer.json["weight"], answer.json["max_running"]) == (201, 2.0, 5)
    answer = await admin.put("/v1/tenants/acme", {"max_running": None})
    assert (answer.status, answer.json["name"], answer.json["max_running"]) == (200, "Acme", None)
    assert [tenant["id"] for tenant in (await admin.get("/v1/tenants")).json["items"]] == ["acme", "default"]
    for field, value in (("weight", 0), ("weight", None), ("runs_per_s", -1), ("max_running", 0), ("nope", 1)):
        answer = await admin.put("/v1/tenants/acme", {field: value})
        assert answer.code == "invalid_input"
        assert answer.json["errors"][0]["path"] == field
    assert (await admin.put("/v1/tenants/-x", {})).code == "invalid_input"
    assert (await admin.post("/v1/tenants/nobody/keys", {"name": "k", "scopes": ["read"]})).code == "not_found"
    assert (await admin.post("/v1/tenants/acme/keys", {"name": "k", "scopes": ["fly"]})).code == "invalid_input"
    assert (await admin.post("/v1/tenants/acme/keys", {"name": "k", "scopes": []})).code == "invalid_input"


async def test_workers_hear_of_runs_that_a_setting_lets_start(admin: AsgiClient, harness: ApiHarness) -> None:
    """Resumed, or with its cap changed while full, a tenant's lanes are told, once each; a pause tells nobody."""
    for lane in ("standard", "standard", "batch"):
        await submit(admin, lane=lane)
    told = {("queue", "standard"), ("queue", "batch")}

    async def heard(**given: object) -> list[tuple[str, str]]:
        harness.news.said.clear()
        assert (await admin.put("/v1/tenants/default", given)).status == 200
        return sorted(said for said in harness.news.said if said[0] == "queue")

    assert await heard(paused=True) == []
    assert await heard(max_running=3) == []
    assert await heard(paused=False) == sorted(told)
    assert await heard(weight=2) == []
    async with harness.database.connection() as connection:
        await connection.execute("update flow set state = 3 where tenant = 'default'")  # as a claim leaves them
    assert await heard(max_running=4) == sorted(told)


async def test_keys_are_shown_once_and_the_last_admin_key_stays(admin: AsgiClient, harness: ApiHarness) -> None:
    """Lists hold no secret; the last key with admin cannot be revoked; without admin there is no way in."""
    made = (await admin.post("/v1/tenants/default/keys", {"name": "k", "scopes": ["submit", "submit"]})).json
    assert made["key"].startswith("tw_")
    assert len(made["key"]) == 43
    listed = await admin.get("/v1/tenants/default/keys")
    assert made["key"].encode() not in listed.body
    assert {item["id"] for item in listed.json["items"]} == {made["id"], "admin"}
    assert (await admin.send("DELETE", "/v1/tenants/default/keys/admin")).code == "conflict"
    client = AsgiClient(harness.api, made["key"])
    assert (await client.put("/v1/tenants/acme", {})).code == "forbidden"
    assert (await client.get("/v1/agents")).code == "forbidden"


async def test_the_first_admin_key_must_be_strong(database: Database) -> None:
    """A short or odd key is refused; the same key twice changes nothing."""
    for secret in ("tw_short", "xx_" + "a" * 40, "tw_" + "a" * 40 + " b"):
        with pytest.raises(ConfigError):
            await ensure_admin_key(database, secret)
    await ensure_admin_key(database, ADMIN_KEY)
    before = await database.value("read_settings_version")
    await ensure_admin_key(database, ADMIN_KEY)
    assert await database.value("read_settings_version") == before


async def test_readyz_names_what_is_missing(harness: ApiHarness, database: Database) -> None:
    """503 until every configured worker claims and every agent its workers serve is published."""
    other = ApiHarness(database, LocalNews(), ApiOptions(workers_expected=1, supervisor="s1"))
    await other.api.start()
    try:
        client = AsgiClient(other.api)
        await register_process(database, "worker", 60, {"claiming": True, "supervisor": "another"})
        answer = await client.get("/readyz")
        assert answer.status == 503
        assert answer.json["missing"] == ["0 of 1 worker processes are claiming"]
        assert (answer.json["code"], answer.json["status"]) == ("not_ready", 503)
        assert "0 of 1 worker processes are claiming" in answer.json["detail"]
        facts = {"claiming": True, "supervisor": "s1", "agents": ["echo", "later"]}
        await register_process(database, "worker", 60, facts)
        async with asyncio.timeout(10):
            while (await client.get("/readyz")).json["workers"] == 0:
                await asyncio.sleep(0.05)
        assert (await client.get("/readyz")).json["missing"] == ["agent later is not published yet"]
        assert (await AsgiClient(harness.api).get("/readyz")).status == 503
        await publish_agents(database, [make_agent("later", {})])
        await other.sync.changed(None)
        async with asyncio.timeout(10):
            while (await client.get("/readyz")).status != 200:
                await asyncio.sleep(0.05)
    finally:
        await other.api.stop()


async def test_the_api_describes_itself(admin: AsgiClient, harness: ApiHarness) -> None:
    """Health, metrics, agents, OpenAPI with the hot routes, and docs that load nothing from elsewhere."""
    anyone = AsgiClient(harness.api)
    assert (await anyone.get("/healthz")).status == 200
    assert (await anyone.send("HEAD", "/healthz")).status == 200
    await admin.post("/v1/runs", {"agent": "echo", "input": 1})
    counted = f'tollway_runs_accepted_total{{lane="standard",process="api-{harness.sync.process_id}"}} 1.0'
    assert counted.encode() in (await anyone.get("/metrics")).body
    agents = (await admin.get("/v1/agents")).json["items"]
    assert {agent["name"] for agent in agents} == {"echo", "triage"}
    document = (await anyone.get("/openapi.json")).json
    assert set(document["paths"]["/v1/runs"]) == {"get", "post"}
    assert document["paths"]["/v1/runs/{run_id}"]["get"]["operationId"] == "get_run"
    assert "RunBody" in document["components"]["schemas"]
    page = (await anyone.get("/docs")).body.decode()
    assert "/v1/dead-letters/replay" in page
    assert "src=" not in page
    assert "http://" not in page
