"""`ETag` and `If-Match`: of two who change the same settings at once, the second is told."""

from collections.abc import AsyncIterator

import pytest

from asgi_client import AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness, LocalNews
from tollway.ingress.services import ApiOptions
from tollway.record.database import Database
from tollway.record.keys import ensure_admin_key

DAY = {"period": "day", "hard_usd": 10}
WEEK = {"period": "week", "hard_usd": 50}
SHIFT = {"from_tier": "powerful", "to_tier": "fast"}
CHANGES = [
    pytest.param("/v1/tenants/default/budgets", {"budgets": [DAY]}, {"budgets": [DAY, WEEK]}, id="budgets"),
    pytest.param("/v1/tenants/default/budgets/{id}/rungs", {"forced": ["alert"]}, {"lifted": ["park"]}, id="rungs"),
    pytest.param("/v1/shifts", [SHIFT], [SHIFT | {"agent": "triage"}], id="shifts"),
]


@pytest.fixture
async def harness(database: Database) -> AsyncIterator[ApiHarness]:
    """A started API that knows two tiers."""
    await ensure_admin_key(database, ADMIN_KEY)
    harness = ApiHarness(database, LocalNews(), ApiOptions(tiers=("fast", "powerful")))
    await harness.api.start()
    yield harness
    await harness.api.stop()


async def place(admin: AsgiClient, path: str) -> str:
    """The path, with a budget for its rungs."""
    if "{id}" not in path:
        return path
    made = await admin.put("/v1/tenants/default/budgets", {"budgets": [DAY]})
    return path.format(id=made.json["items"][0]["id"])


@pytest.mark.parametrize(("path", "first", "second"), CHANGES)
async def test_a_change_of_what_was_changed_meanwhile_is_refused(
    admin: AsgiClient, path: str, first: object, second: object
) -> None:
    """P11: 412, nothing changed, and the tag of what stands; with that tag, or any, or none, it is taken."""
    path = await place(admin, path)
    read = (await admin.get(path)).headers["etag"]
    put = await admin.put(path, first, if_match=read)
    now = put.headers["etag"]
    assert (put.status, now) == (200, (await admin.get(path)).headers["etag"])
    assert now != read
    stands = (await admin.get(path)).json
    for stale in (read, f"W/{now}", now.strip('"'), f'{read}, "nothing"'):
        refused = await admin.put(path, second, if_match=stale)
        assert (refused.status, refused.code, refused.headers["etag"]) == (412, "precondition_failed", now)
    assert (await admin.get(path)).json == stands
    assert (await admin.put(path, second, if_match=f"{read}, {now}")).status == 200
    assert (await admin.put(path, first, if_match="*")).headers["etag"] == now
    assert (await admin.put(path, second)).status == 200


async def test_what_is_spent_and_the_rungs_are_not_the_settings(admin: AsgiClient, harness: ApiHarness) -> None:
    """The tag of budgets names what a PUT of them sets: a rung by hand and money spent change nothing of it."""
    path = "/v1/tenants/default/budgets"
    made = await admin.put(path, {"budgets": [DAY]})
    await admin.put(f"{path}/{made.json['items'][0]['id']}/rungs", {"forced": ["alert"]})
    async with harness.database.connection() as connection:
        await connection.execute(
            "insert into budget_account (budget, begins, ends, spent_nano)"
            " select id, now() - interval '1 hour', now() + interval '1 hour', 5 from budget"
        )
    seen = await admin.get(path)
    assert (seen.json["items"][0]["spent_nano"], seen.json["items"][0]["forced"]) == (5, ["alert"])
    assert seen.headers["etag"] == made.headers["etag"]
