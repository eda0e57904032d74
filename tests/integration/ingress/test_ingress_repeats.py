"""Repeats of accepted requests while the door is shut to new ones: the run their key made, whatever refuses others."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asgi_client import AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness, LocalNews, make_agent
from record_kit import accept_all, new_run
from runtime_kit import until
from tollway.domain.errors import Problem
from tollway.ingress.services import ApiOptions, LaneLimits
from tollway.record import accept
from tollway.record.agents import publish_agents
from tollway.record.database import Database
from tollway.record.keys import ensure_admin_key

SUBMIT = {"agent": "echo", "input": 1}


async def client_of(admin: AsgiClient, tenant: str, **settings: Any) -> AsgiClient:
    """A tenant with these settings, and its client."""
    assert (await admin.put(f"/v1/tenants/{tenant}", settings)).status == 201
    made = await admin.post(f"/v1/tenants/{tenant}/keys", {"name": "k", "scopes": ["submit", "read"]})
    return AsgiClient(admin.app, made.json["key"])


async def check_repeats(client: AsgiClient, run: str, refused_as: tuple[int, str]) -> None:
    """With the door shut: repeats of key `k` get their run in every form; others the conflict, or the refusal."""
    for _ in range(3):
        again = await client.post("/v1/runs", SUBMIT, idempotency_key="k")
        assert (again.status, again.headers["idempotency-replayed"], again.json["id"]) == (202, "true", run)
    waited = await client.post("/v1/runs", SUBMIT, idempotency_key="k", prefer="wait=0")
    assert (waited.status, waited.headers["idempotency-replayed"], waited.json["id"]) == (202, "true", run)
    headers = {"idempotency-key": "k", "accept": "text/event-stream"}
    async for message in client.stream("POST", "/v1/runs", SUBMIT, headers=headers):
        assert message["status"] == 202
        assert {b"idempotency-replayed": b"true", b"location": f"/v1/runs/{run}".encode()}.items() <= dict(
            message["headers"]
        ).items()
        break
    other = await client.post("/v1/runs", SUBMIT | {"input": 2}, idempotency_key="k")
    assert (other.status, other.code, other.json["run_id"]) == (409, "idempotency_conflict", run)
    for headers in ({}, {"idempotency_key": "new"}):
        answer = await client.post("/v1/runs", SUBMIT, **headers)
        assert (answer.status, answer.code) == refused_as
    items = [SUBMIT | {"idempotency_key": key} for key in ("k", "new")] + [SUBMIT]
    items.append(SUBMIT | {"input": 2, "idempotency_key": "k"})
    results = (await client.post("/v1/runs/batch", {"runs": items})).json["results"]
    assert [item["status"] for item in results] == [202, refused_as[0], refused_as[0], 409]
    assert (results[0]["replayed"], results[0]["run"]["id"]) == (True, run)
    assert {item["error"]["code"] for item in results[1:3]} == {refused_as[1]}


async def test_repeats_pass_a_full_queue(admin: AsgiClient) -> None:
    """With `max_queued` reached a repeat is 202 with its run, another body 409, a new key and no key `queue_full`."""
    client = await client_of(admin, "acme", max_queued=1)
    run = (await client.post("/v1/runs", SUBMIT, idempotency_key="k")).json["id"]
    await check_repeats(client, run, (429, "queue_full"))


async def test_repeats_pass_a_spent_rate_and_take_nothing_of_it(admin: AsgiClient, harness: ApiHarness) -> None:
    """A repeat passes while `runs_per_s` is used up, and one that came while it was not gives back what it took."""
    client = await client_of(admin, "acme", runs_per_s=0.001)
    run = (await client.post("/v1/runs", SUBMIT, idempotency_key="k")).json["id"]
    await check_repeats(client, run, (429, "rate_limited"))
    assert (await admin.put("/v1/tenants/acme", {"runs_per_s": None})).status == 200
    assert (await admin.put("/v1/tenants/acme", {"runs_per_s": 0.001})).status == 200
    for _ in range(5):
        assert (await client.post("/v1/runs", SUBMIT, idempotency_key="k")).status == 202
    assert [(await client.post("/v1/runs", SUBMIT)).status for _ in range(2)] == [202, 429]
    assert (await client.post("/v1/runs", SUBMIT, idempotency_key="k")).status == 202
    assert (await client.post("/v1/runs", SUBMIT)).status == 429


async def test_repeats_pass_spent_tokens(admin: AsgiClient, harness: ApiHarness) -> None:
    """A tenant whose tokens of the day are used up still gets what its keys made: else 403."""
    client = await client_of(admin, "acme", tokens_per_day=10)
    run = (await client.post("/v1/runs", SUBMIT, idempotency_key="k")).json["id"]
    harness.services.tokens.spent("acme", 10)
    await check_repeats(client, run, (403, "quota_exhausted"))


@pytest.fixture
async def shallow(database: Database) -> AsyncIterator[ApiHarness]:
    """An API whose lane `standard` takes 5 runs."""
    await ensure_admin_key(database, ADMIN_KEY)
    await publish_agents(database, [make_agent("echo", {})])
    options = ApiOptions(lane_limits={"standard": LaneLimits(max_queued=5)})
    harness = ApiHarness(database, LocalNews(), options, heartbeat_s=0.05)
    await harness.api.start()
    yield harness
    await harness.api.stop()


async def test_repeats_pass_a_full_lane(shallow: ApiHarness, database: Database) -> None:
    """What `place` refuses is looked up as what `knock` does, and what it took of the rate is given back."""
    client = await client_of(AsgiClient(shallow.api, ADMIN_KEY), "acme", runs_per_s=100)
    run = (await client.post("/v1/runs", SUBMIT, idempotency_key="k")).json["id"]
    await accept_all(database, [new_run(agent="echo") for _ in range(5)])
    await until(lambda: (shallow.api.context.admission.forecasts.queued("standard") or 0) >= 5)
    await check_repeats(client, run, (429, "queue_full"))


async def test_duplicates_at_once_are_one_run_though_the_door_shuts(admin: AsgiClient, database: Database) -> None:
    """Of ten requests at once with one key, the first uses up the rate, and all get its run."""
    client = await client_of(admin, "acme", runs_per_s=0.001, max_queued=1)
    answers = await asyncio.gather(*(client.post("/v1/runs", SUBMIT, idempotency_key="k") for _ in range(10)))
    assert [answer.status for answer in answers] == [202] * 10
    assert len({answer.json["id"] for answer in answers}) == 1
    assert (await client.post("/v1/runs", SUBMIT)).status == 429


async def test_a_whole_batch_is_repeated_though_the_queue_is_full(admin: AsgiClient) -> None:
    """A batch of more items than one look-up takes, sent again, is answered with the same runs in order."""
    client = await client_of(admin, "acme", max_queued=500)
    lines = [json.dumps(SUBMIT | {"idempotency_key": f"k{n}"}) for n in range(500)]
    raw, headers = "\n".join(lines).encode(), {"content-type": "application/x-ndjson"}
    first, again = [
        (await client.send("POST", "/v1/runs/batch", raw=raw, headers=headers)).json["results"] for _ in range(2)
    ]
    assert all(item["status"] == 202 for item in first + again)
    assert [item["run"]["id"] for item in again] == [item["run"]["id"] for item in first]
    assert all(item["replayed"] for item in again)


async def test_what_may_wait_for_a_look_up_is_bounded(
    admin: AsgiClient, harness: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound a refused request is refused at once, without a question to the record."""
    monkeypatch.setattr(accept, "REPEATS_WAITING_MAX", 0)
    run, refusal = new_run(agent="echo", idempotency_key="k", body_hash=b"h"), Problem("rate_limited", "no")
    with pytest.raises(Problem) as raised:
        harness.services.accepts.repeat(run, refusal)
    assert raised.value is refusal


async def test_what_ends_at_once_or_is_known_stands_in_no_queue(admin: AsgiClient, harness: ApiHarness) -> None:
    """A run refused by `cancel_newest`, and a repeat, count neither in depths nor in forecasts."""
    client = await client_of(admin, "acme", max_queued=3)
    keyed = SUBMIT | {"concurrency_key": "doc:7", "concurrency_policy": "cancel_newest"}
    assert (await client.post("/v1/runs", keyed)).json["state"] == "queued"
    forecasts = harness.api.context.admission.forecasts
    await until(lambda: forecasts.queued("standard") == 1)
    for _ in range(5):
        assert (await client.post("/v1/runs", keyed)).json["state"] == "cancelled"
        assert (await client.post("/v1/runs", keyed, idempotency_key="k")).json["state"] == "cancelled"
    assert forecasts.queued("standard") == 1
    assert [(await client.post("/v1/runs", SUBMIT)).status for _ in range(3)] == [202, 202, 429]
    assert forecasts.queued("standard") == 3
