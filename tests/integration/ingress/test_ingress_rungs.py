"""`GET` and `PUT /v1/tenants/{tenant}/budgets/{budget}/rungs`."""

import pytest

from asgi_client import AsgiClient
from ingress_kit import ApiHarness


@pytest.fixture
async def path(harness: ApiHarness) -> str:
    """Where the rungs of a budget of the default tenant are."""
    async with harness.database.connection() as connection:
        budget = await connection.fetchval(
            "insert into budget (tenant, period, since_version) values ('default', 'day', 1) returning id"
        )
    return f"/v1/tenants/default/budgets/{budget}/rungs"


async def test_they_replace_what_was_forced_and_lifted(admin: AsgiClient, harness: ApiHarness, path: str) -> None:
    """The answer is what holds from now on, and every API process has read the settings that say so."""
    version = harness.sync.snapshot.version
    answer = await admin.put(path, {"forced": ["park", "alert", "alert"], "lifted": ["throttle"]})
    assert (answer.status, answer.json["forced"], answer.json["lifted"]) == (200, ["alert", "park"], ["throttle"])
    assert path.split("/")[5] == answer.json["id"]
    assert (await admin.get(path)).json == answer.json
    assert harness.sync.snapshot.version > version
    assert (await admin.put(path, {})).json == answer.json | {"forced": [], "lifted": []}


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"forced": ["cheaper"]}, "forced.0"),
        ({"lifted": ["alert", "hard"]}, "lifted.1"),
        ({"forced": ["park"], "lifted": ["alert", "park"]}, "lifted.1"),
        ({"forced": "park"}, "forced"),
        ({"force": ["park"]}, "force"),
        (["park"], ""),
    ],
)
async def test_bad_input_names_its_field_and_changes_nothing(
    admin: AsgiClient, path: str, body: object, at: str
) -> None:
    """P11: rungs that there are not, fields that there are not, a rung in both lists: 422, and what held goes on."""
    await admin.put(path, {"forced": ["alert"]})
    answer = await admin.put(path, body)
    assert (answer.status, answer.code, answer.json["errors"][0]["path"]) == (422, "invalid_input", at)
    assert (await admin.get(path)).json["forced"] == ["alert"]


@pytest.mark.parametrize("budget", ["99", "0", "-1", "x", "1" * 30, "1.0"])
async def test_what_is_no_budget_of_the_tenant_is_not_found(admin: AsgiClient, path: str, budget: str) -> None:
    """404 for another budget, and for another tenant, known or not."""
    assert path
    for method in (admin.get, lambda where: admin.put(where, {})):
        assert (await method(f"/v1/tenants/default/budgets/{budget}/rungs")).status == 404
        assert (await method("/v1/tenants/nobody/budgets/1/rungs")).status == 404


async def test_a_budget_shows_the_rungs_it_stands_on(admin: AsgiClient) -> None:
    """The list of budgets has them, forced ones included, lifted ones not, and a change of limits leaves both."""
    budgets = {"budgets": [{"period": "day", "hard_usd": 0, "ladder": [{"at_pct": 80, "rung": "lower_tier"}]}]}
    made = (await admin.put("/v1/tenants/default/budgets", budgets)).json["items"][0]
    assert made["rungs"] == ["lower_tier", "park"]
    await admin.put(f"/v1/tenants/default/budgets/{made['id']}/rungs", {"forced": ["alert"], "lifted": ["park"]})
    assert (await admin.get("/v1/tenants/default/budgets")).json["items"][0]["rungs"] == ["alert", "lower_tier"]
    budgets["budgets"][0]["hard_usd"] = 5
    again = (await admin.put("/v1/tenants/default/budgets", budgets)).json["items"][0]
    assert (again["id"], again["rungs"]) == (made["id"], ["alert"])


async def test_only_an_admin_may(admin: AsgiClient, harness: ApiHarness, path: str) -> None:
    """A tenant's key may read its own, and change none."""
    made = await admin.post("/v1/tenants/default/keys", {"name": "k", "scopes": ["read", "submit"]})
    other = await admin.put("/v1/tenants/acme", {})
    assert other.status == 201
    own = AsgiClient(harness.api, made.json["key"])
    assert (await own.get(path)).status == 200
    assert (await own.put(path, {})).status == 403
    assert (await own.get(path.replace("default", "acme"))).status == 404
