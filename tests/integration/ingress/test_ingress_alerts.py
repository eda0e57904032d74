"""`GET /v1/alerts`, and a tenant's own receiver of them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from asgi_client import AsgiClient
from ingress_kit import ApiHarness
from record_kit import ids
from tollway.domain.alerts import Alert, AlertKind
from tollway.record.alerts import AlertHook, AlertRecord
from tollway.record.database import Database
from tollway.record.keys import create_key

HOOK = {"url": "https://acme.test/hook?to=alerts", "secret_env": "ACME_HOOK"}


async def tell(database: Database, *alerts: tuple[AlertKind, str | None, str]) -> None:
    """Tell of these, in their order, each by itself."""
    record = AlertRecord(database, ids, AlertHook())
    async with database.connection() as connection:
        for kind, tenant, subject in alerts:
            await record.tell(connection, [Alert(kind, tenant, subject, f"{kind}/{subject}", {"spent_usd": 1.5})])


async def subjects(client: AsgiClient, query: str = "") -> list[str]:
    """What is listed, newest first."""
    answer = await client.get(f"/v1/alerts{query}")
    assert answer.status == 200, answer.body
    return [item["subject"] for item in answer.json["items"]]


async def test_alerts_are_listed_newest_first(admin: AsgiClient, harness: ApiHarness) -> None:
    """Each is shown with kind, tenant, subject, data and times; filters and pages choose among them."""
    soft, spike = AlertKind.BUDGET_SOFT, AlertKind.SPEND_SPIKE
    await tell(
        harness.database, (soft, "default", "1"), (spike, "default", "2"), (AlertKind.FALLBACK_LASTING, None, "3")
    )
    assert await subjects(admin) == ["3", "2", "1"]
    shown = (await admin.get("/v1/alerts?kind=budget_soft")).json["items"][0]
    assert {name: shown[name] for name in ("kind", "tenant", "subject", "data", "over_at")} == {
        "kind": "budget_soft",
        "tenant": "default",
        "subject": "1",
        "data": {"spent_usd": 1.5},
        "over_at": None,
    }
    assert shown["at"].endswith("Z")
    assert await subjects(admin, "?tenant=default") == ["2", "1"]
    page = (await admin.get("/v1/alerts?limit=2")).json
    assert [item["subject"] for item in page["items"]] == ["3", "2"]
    assert await subjects(admin, f"?limit=2&cursor={page['next']}") == ["1"]
    assert await subjects(admin, f"?since={shown['at']}") in (["3", "2", "1"], ["3", "2"])
    assert await subjects(admin, "?since=2100-01-01T00:00:00Z") == []
    async with harness.database.connection() as connection:
        await AlertRecord(harness.database, ids, AlertHook()).end(connection, ["spend_spike/2"])
    assert await subjects(admin, "?open=true") == ["3", "1"]
    assert await subjects(admin, "?open=false") == ["3", "2", "1"]


async def test_a_tenant_sees_its_own_alerts(admin: AsgiClient, harness: ApiHarness) -> None:
    """A tenant's key is told neither of others' alerts nor of the operator's, and may not ask for them."""
    await admin.put("/v1/tenants/acme", {})
    database = harness.database
    await tell(database, *((AlertKind.SPEND_SPIKE, tenant, str(tenant)) for tenant in ("acme", "default", None)))
    document, version = await create_key(database, harness.ids.new(), "acme", "reader", ["read"])
    await harness.sync.changed(version)
    acme = AsgiClient(harness.api, document["key"])
    assert await subjects(acme) == ["acme"]
    refused = await acme.get("/v1/alerts?tenant=default")
    assert (refused.status, refused.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("query", "path"),
    [("kind=odd", "kind"), ("since=yesterday", "since"), ("open=yes", "open"), ("cursor=x", "cursor"), ("of=x", "of")],
)
async def test_odd_questions_are_refused(admin: AsgiClient, harness: ApiHarness, query: str, path: str) -> None:
    """What cannot be asked is refused with the name of the parameter (P11)."""
    answer = await admin.get(f"/v1/alerts?{query}")
    assert (answer.status, answer.json["errors"][0]["path"]) == (422, path)


async def test_a_tenant_has_a_receiver_of_alerts(admin: AsgiClient, harness: ApiHarness) -> None:
    """It is set, kept by a change of something else, shown, and taken away with null."""
    assert (await admin.put("/v1/tenants/acme", {"alert_webhook": HOOK})).json["alert_webhook"] == HOOK
    assert (await admin.put("/v1/tenants/acme", {"weight": 2})).json["alert_webhook"] == HOOK
    bare = {"url": "http://acme.test"}
    assert (await admin.put("/v1/tenants/acme", {"alert_webhook": bare})).json["alert_webhook"] == {
        **bare,
        "secret_env": None,
    }
    assert (await admin.get("/v1/tenants/acme")).json["alert_webhook"]["url"] == bare["url"]
    assert (await admin.put("/v1/tenants/acme", {"alert_webhook": None})).json["alert_webhook"] is None
    assert (await admin.put("/v1/tenants/new", {})).json["alert_webhook"] is None


async def test_a_budget_shows_its_forecast(admin: AsgiClient, harness: ApiHarness) -> None:
    """Once looked at for a while, a budget shows dollars an hour and when its money is gone; before, neither."""
    path = "/v1/tenants/default/budgets"
    budgets = {"budgets": [{"period": "month", "hard_usd": 100}, {"period": "total", "hard_usd": 100}]}
    month, total = (await admin.put(path, budgets)).json["items"]
    for shown in (month, total):
        assert (shown["burn_usd_per_hour"], shown["burn_nano_per_hour"], shown["exhausts_at"]) == (None, None, None)
    spent, steady = 40_000_000_000, 40e9 / 7200
    async with harness.database.connection() as connection:
        await connection.execute(
            "insert into budget_account (budget, begins, ends, spent_nano)"
            " select id, now() - interval '2 hours', case period when 'month' then now() + interval '1 hour' end, $1"
            " from budget",
            spent,
        )
        await connection.execute(
            "insert into budget_burn select id, now() - interval '2 hours', 0, now(), $1, $2 from budget_account",
            spent,
            steady,
        )
    month, total = (await admin.get(path)).json["items"]
    assert month["burn_usd_per_hour"] == pytest.approx(20, rel=0.05)
    assert month["exhausts_at"] is None  # a new month has begun by then
    ahead = datetime.fromisoformat(total["exhausts_at"]) - datetime.now(UTC)
    assert ahead.total_seconds() == pytest.approx(3 * 3600, rel=0.05)


@pytest.mark.parametrize(
    ("hook", "path"),
    [
        ({"url": "ftp://acme.test"}, "alert_webhook.url"),
        ({"url": "https://acme.test", "secret_env": "no name"}, "alert_webhook.secret_env"),
        ({"secret_env": "ACME"}, "alert_webhook.url"),
        ({"url": "https://acme.test", "odd": 1}, "alert_webhook.odd"),
    ],
)
async def test_an_odd_receiver_changes_nothing(
    admin: AsgiClient, harness: ApiHarness, hook: dict[str, Any], path: str
) -> None:
    """A receiver that cannot be used is refused by the name of its field, nothing of the body is taken (P11)."""
    answer = await admin.put("/v1/tenants/default", {"weight": 7, "alert_webhook": hook})
    assert (answer.status, answer.json["errors"][0]["path"]) == (422, path)
    assert (await admin.get("/v1/tenants/default")).json["weight"] == 1
