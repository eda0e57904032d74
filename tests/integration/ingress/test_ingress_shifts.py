"""`PUT /v1/shifts` and `GET /v1/shifts`."""

from collections.abc import AsyncIterator

import pytest

from asgi_client import AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness, LocalNews
from tollway.domain.shifts import Shift
from tollway.ingress.services import ApiOptions
from tollway.record.database import Database
from tollway.record.keys import ensure_admin_key

OPTIONS = ApiOptions(tiers=("fast", "capable", "powerful"))
WHOLE = {"tenant": "default", "agent": "triage", "task_type": "legal", "from_tier": "fast", "to_tier": "powerful"}
BARE = {"from_tier": "powerful", "to_tier": "capable"}


@pytest.fixture
async def harness(database: Database) -> AsyncIterator[ApiHarness]:
    """A started API that knows three tiers."""
    await ensure_admin_key(database, ADMIN_KEY)
    harness = ApiHarness(database, LocalNews(), OPTIONS)
    await harness.api.start()
    yield harness
    await harness.api.stop()


async def test_they_replace_those_in_force_on_every_process(
    admin: AsgiClient, harness: ApiHarness, database: Database
) -> None:
    """The answer is the list in its order; every API process has it then, and an empty list ends them all."""
    other = ApiHarness(database, LocalNews(), OPTIONS, heartbeat_s=0.1)
    await other.api.start()
    try:
        answer = await admin.put("/v1/shifts", [WHOLE, BARE])
        assert (answer.status, answer.json) == (200, {"items": [WHOLE, BARE], "next": None})
        assert other.sync.snapshot.shifts == (
            Shift("fast", "powerful", "default", "triage", "legal"),
            Shift("powerful", "capable"),
        )
        assert (await AsgiClient(other.api, ADMIN_KEY).get("/v1/shifts")).json == answer.json
        assert (await admin.put("/v1/shifts", [BARE | {"tenant": None}])).json["items"] == [BARE]
        assert (await admin.put("/v1/shifts", [])).json["items"] == []
        assert other.sync.snapshot.shifts == ()
    finally:
        await other.api.stop()


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        ([BARE, BARE | {"to_tier": "best"}], "unknown_tier", "1.to_tier"),
        ([BARE | {"from_tier": "best"}], "unknown_tier", "0.from_tier"),
        ([BARE | {"tenant": "nobody"}], "invalid_input", "0.tenant"),
        ([BARE | {"agent": ""}], "invalid_input", "0.agent"),
        ([BARE | {"agent": "x\x00"}], "invalid_input", "0.agent"),
        ([BARE | {"task": "x"}], "invalid_input", "0.task"),
        ([{"from_tier": "fast"}], "invalid_input", "0.to_tier"),
        ([BARE] * 1001, "invalid_input", ""),
        ({"shifts": []}, "invalid_input", ""),
        (BARE, "invalid_input", ""),
    ],
)
async def test_bad_input_names_its_field_and_changes_nothing(
    admin: AsgiClient, body: object, code: str, path: str
) -> None:
    """P11: unknown tiers, tenants and fields are 422 at the place they stand, and what was in force stays."""
    await admin.put("/v1/shifts", [WHOLE])
    answer = await admin.put("/v1/shifts", body)
    assert (answer.status, answer.code) == (422, code)
    assert answer.json["errors"][0]["path"] == path
    assert (await admin.get("/v1/shifts")).json["items"] == [WHOLE]


async def test_the_tiers_there_are_are_named(admin: AsgiClient) -> None:
    """P11: the refusal of a tier says which there are."""
    answer = await admin.put("/v1/shifts", [BARE | {"to_tier": "best"}])
    detail = "1.to_tier: no route serves a tier 'best'; the tiers are fast, capable, powerful."
    assert answer.json["detail"] == detail.replace("1.", "0.")


async def test_they_need_an_admin(admin: AsgiClient, harness: ApiHarness) -> None:
    """Neither reading nor writing shifts is open to a tenant's key."""
    key = (await admin.post("/v1/tenants/default/keys", {"name": "k", "scopes": ["submit", "read"]})).json["key"]
    client = AsgiClient(harness.api, key)
    assert (await client.get("/v1/shifts")).status == 403
    assert (await client.put("/v1/shifts", [])).status == 403
    assert (await AsgiClient(harness.api).put("/v1/shifts", [])).status == 401


async def test_the_api_describes_the_list(harness: ApiHarness) -> None:
    """OpenAPI says that the body is a list of shifts."""
    document = (await AsgiClient(harness.api).get("/openapi.json")).json
    body = document["paths"]["/v1/shifts"]["put"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"type": "array", "items": {"$ref": "#/components/schemas/ShiftBody"}}
    assert set(document["components"]["schemas"]["ShiftBody"]["required"]) == {"from_tier", "to_tier"}
