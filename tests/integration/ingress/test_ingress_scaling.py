"""GET /v1/scaling over a real queue: what it counts, for whom, and what it refuses."""

from asgi_client import AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness
from record_kit import claim, new_claims
from tollway.record.database import Database
from tollway.record.processes import beat_process, live_processes

FOUR = ("runnable", "blocked", "running", "wanted_workers")


async def submit(client: AsgiClient, lane: str, count: int = 1, **given: object) -> None:
    """Submit so many runs of `echo`."""
    runs = [{"agent": "echo", "input": 1, "lane": lane, **given} for _ in range(count)]
    answer = await client.post("/v1/runs/batch", {"runs": runs})
    assert {result["status"] for result in answer.json["results"]} == {202}


async def test_it_counts_what_could_run_and_what_could_not(
    harness: ApiHarness, admin: AsgiClient, database: Database
) -> None:
    """Runnable, blocked and running by lane, with the reasons; the whole has the same four names at the top."""
    await submit(admin, "standard", 7)
    await submit(admin, "batch", 3, delay_s=60)
    claims, _ = await new_claims(database)
    await claim(claims, 2, agent="echo")
    found = (await admin.get("/v1/scaling?lane=standard")).json
    assert found["lane"] == "standard"
    assert [found[name] for name in FOUR] == [5, 0, 2, 1]
    batch = (await admin.get("/v1/scaling?lane=batch")).json
    assert ([batch[name] for name in FOUR], batch["reasons"]) == ([0, 3, 0, 0], {"time": 3})
    whole = (await admin.get("/v1/scaling")).json
    assert [whole[name] for name in FOUR] == [5, 3, 2, 1]
    assert whole["items"] == [(await admin.get("/v1/scaling?lane=interactive")).json, found, batch]
    assert whole["next"] is None


async def test_a_paused_tenants_runs_are_blocked(harness: ApiHarness, admin: AsgiClient) -> None:
    """Work that a pause holds back wants no worker, and counts again when the pause ends."""
    await admin.put("/v1/tenants/acme", {"paused": True})
    acme = AsgiClient(harness.api, (await admin.post("/v1/tenants/acme/keys", KEY)).json["key"])
    await submit(acme, "standard", 4)
    found = (await admin.get("/v1/scaling?lane=standard")).json
    assert ([found[name] for name in FOUR], found["reasons"]) == ([0, 4, 0, 0], {"shut": 4})


KEY = {"name": "k", "scopes": ["submit", "read"]}


async def test_a_tenant_sees_its_own_work(harness: ApiHarness, admin: AsgiClient) -> None:
    """A tenant's key, and an admin key acting for it, are told of that tenant's runs alone."""
    await admin.put("/v1/tenants/acme", {})
    acme = AsgiClient(harness.api, (await admin.post("/v1/tenants/acme/keys", KEY)).json["key"])
    await submit(acme, "standard", 2)
    await submit(admin, "standard", 5)
    assert (await admin.get("/v1/scaling")).json["runnable"] == 7
    assert (await acme.get("/v1/scaling")).json["runnable"] == 2
    acting = await admin.get("/v1/scaling?lane=standard", x_tollway_tenant="acme")
    assert acting.json["runnable"] == 2


async def test_bad_questions(harness: ApiHarness, admin: AsgiClient) -> None:
    """P11: a lane that is not there is 422 with those that are; so is an unknown parameter; the scope is `read`."""
    answer = await admin.get("/v1/scaling?lane=nightly")
    assert (answer.status, answer.json["code"]) == (422, "unknown_lane")
    assert "interactive, standard, batch" in answer.json["detail"]
    assert (await admin.get("/v1/scaling?tenant=acme")).json["code"] == "invalid_input"
    await admin.put("/v1/tenants/acme", {})
    key = (await admin.post("/v1/tenants/acme/keys", {"name": "k", "scopes": ["submit"]})).json["key"]
    assert (await AsgiClient(harness.api, key).get("/v1/scaling")).status == 403
    assert (await AsgiClient(harness.api, "tw_nobody").get("/v1/scaling")).status == 401


async def test_the_gauges_show_the_same(harness: ApiHarness, admin: AsgiClient) -> None:
    """A look at /metrics counts the queue: the gauges are there without anybody asking for the signal before."""
    await submit(admin, "standard", 3)
    await submit(admin, "batch", 2, delay_s=60)
    text = (await AsgiClient(harness.api, ADMIN_KEY).get("/metrics")).body.decode()
    shown = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(("tollway_queue", "tollway_wor")))
    process = f'process="api-{harness.sync.process_id}"'
    assert shown[f'tollway_queue_runnable{{lane="standard",{process}}}'] == "3.0"
    assert shown[f'tollway_queue_blocked{{lane="batch",{process},reason="time"}}'] == "2.0"
    assert shown[f'tollway_queue_running{{lane="standard",{process}}}'] == "0.0"
    assert shown[f'tollway_workers_wanted{{lane="standard",{process}}}'] == "1.0"


async def test_workers_tell_slots_and_service(harness: ApiHarness, admin: AsgiClient, database: Database) -> None:
    """What workers say in their beats shapes the signal: the slots of those at work, and the time runs take."""
    _, worker = await new_claims(database)
    told = {"claiming": True, "slots": 10, "agents": ["echo"], "lanes": ["standard"]}
    for ended in (0, 50):
        served = {"standard": {"echo": [ended, ended, ended * 5.0, 0, 0.0]}}
        await beat_process(database, worker, 0, {**told, "served": served})
        harness.sync.workers = await live_processes(database, "worker")
        harness.api.context.board.hear()
    assert harness.api.context.board.rates.of("standard", "echo").seconds == 5.0
    await submit(admin, "standard", 200)
    found = (await admin.get("/v1/scaling?lane=standard")).json
    assert found["workers"] == 1
    assert found["wanted_workers"] >= 200 * 5.0 / 10 / 10
