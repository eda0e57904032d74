"""`GET /v1/usage` and `GET /v1/usage/runs`."""

import csv
import io
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from asgi_client import AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness
from record_kit import clock, session
from tollway.ingress.routes import usage
from tollway.record.database import Database
from tollway.record.rollup import Rollup
from usage_kit import count_all, end_run, enter


def day(ago: int) -> datetime:
    """Noon, so many days ago."""
    return datetime.fromtimestamp(clock.now(), UTC).replace(hour=12) - timedelta(days=ago)


@pytest.fixture
async def used(harness: ApiHarness, database: Database, admin: AsgiClient) -> Database:
    """Two tenants' usage of two days: acme's runs on two tiers, the other's calls over the wire and a saved answer."""
    assert (await admin.put("/v1/tenants/acme", {})).status == 201
    async with session(database.options.url) as writer:
        for ago in (0, 3):
            run = await end_run(writer, tenant="acme", at=day(ago), metadata='{"task_type": "legal"}', llm_calls=2)
            owner: dict[str, Any] = {"tenant": "acme", "run_id": run, "task_type": "legal", "at": day(ago)}
            await enter(writer, **owner, nano=1_500_000_000)
            await enter(writer, **owner, nano=500_000_000, tier="best", route="r2", saved_prompt_nano=250_000_000)
        owner = {"agent": None, "step": None, "key_id": "key-9", "at": day(0), "lane": "interactive"}
        await enter(writer, **owner, nano=7)
        await enter(writer, **owner, kind="unknown", nano=40, input_tokens=0, output_tokens=0)
        await enter(writer, **owner, kind="saved", nano=0, cached="exact", saved_nano=1, input_tokens=0)
    await count_all(Rollup(database))
    return database


async def test_it_is_grouped_as_asked(admin: AsgiClient, used: Database) -> None:
    """Rows have their groups, runs, calls, tokens, money and savings; what an entry has not is null. (P10)"""
    found = (await admin.get("/v1/usage?group_by=tenant,agent")).json
    assert [(row["tenant"], row["agent"], row["runs"], row["calls"]) for row in found["items"]] == [
        ("acme", "triage", 2, 4),
        ("default", None, 0, 2),
    ]
    acme, wire = found["items"]
    assert (acme["cost_usd"], acme["cost_nano"], acme["saved_usd"]) == (4.0, 4_000_000_000, 0.5)
    assert (acme["input_tokens"], acme["output_tokens"], acme["cached_tokens"]) == (40, 20, 8)
    assert (wire["cost_nano"], wire["unknown_nano"], wire["unknown_usd"], wire["hits"]) == (7, 40, 4e-8, 1)
    assert acme["saved"] == {"cache_usd": 0.0, "flight_usd": 0.0, "prompt_cache_usd": 0.5, "shift_usd": 0.0}
    assert found["total"]["cost_nano"] == 4_000_000_007
    assert (acme["calls_share"], found["group_by"], found["next"]) == (4 / 6, ["tenant", "agent"], None)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("", [(2, 6)]),
        ("group_by=tier", [("best", 2, 2), ("fast", 2, 4)]),
        ("group_by=route", [("r1", 2, 4), ("r2", 2, 2)]),
        ("group_by=key", [("k", 2, 4), ("key-9", 0, 2)]),
        ("group_by=lane", [("interactive", 0, 2), ("standard", 2, 4)]),
        ("group_by=task_type", [(None, 0, 2), ("legal", 2, 4)]),
        ("group_by=step,tier", [("fast", None, 0, 2), ("best", "answer", 2, 2), ("fast", "answer", 2, 2)]),
        ("group_by=agent&tier=best", [("triage", 2, 2)]),
        ("group_by=tenant&key=key-9&lane=interactive", [("default", 0, 2)]),
        ("group_by=agent&route=nowhere", []),
        ("task_type=legal&agent=triage&step=answer&tenant=acme", [(2, 4)]),
    ],
)
async def test_any_group_and_filter(admin: AsgiClient, used: Database, query: str, rows: list[tuple[Any, ...]]) -> None:
    """Every group has each run once, whatever it called; filters narrow runs and calls alike."""
    found = (await admin.get(f"/v1/usage?{query}")).json
    names = (*sorted(found["group_by"], key="tier step".find), "runs", "calls")
    assert sorted((tuple(row[name] for name in names) for row in found["items"]), key=str) == sorted(rows, key=str)


async def test_a_long_name_is_a_filter_in_full_and_as_it_is_shown(admin: AsgiClient, database: Database) -> None:
    """A step longer than its sums keep is found by its own name, and by the shorter one that a report shows."""
    async with session(database.options.url) as writer:
        await enter(writer, step="s" * 200, nano=3)
        await enter(writer, step="s" * 201, nano=5)
    await count_all(Rollup(database))
    shown = {row["cost_nano"]: row["step"] for row in (await admin.get("/v1/usage?group_by=step")).json["items"]}
    for name in ("s" * 200, shown[3]):
        assert (await admin.get(f"/v1/usage?step={quote(name)}")).json["total"]["cost_nano"] == 3


async def test_days_are_whole_and_in_utc(admin: AsgiClient, used: Database) -> None:
    """`from` is the first day, `to` the first that is not meant; by day each has its own; months add up as days do."""
    today, before = f"{day(0):%Y-%m-%d}", f"{day(3):%Y-%m-%d}"
    found = (await admin.get("/v1/usage?group_by=day,tenant")).json["items"]
    assert [(row["day"], row["tenant"]) for row in found] == [(before, "acme"), (today, "acme"), (today, "default")]
    later = f"{day(2):%Y-%m-%d}T00:00:00.000Z"
    assert [row["runs"] for row in (await admin.get(f"/v1/usage?from={later}")).json["items"]] == [1]
    assert [row["runs"] for row in (await admin.get(f"/v1/usage?from={before}&to={later}")).json["items"]] == [1]
    wide = (await admin.get("/v1/usage?from=2026-01-01&to=2030-01-01&group_by=tenant")).json["items"]
    assert [row["cost_nano"] for row in wide] == [4_000_000_000, 7]
    offset = quote(f"{day(3):%Y-%m-%d}T02:00:00+02:00")
    assert (await admin.get(f"/v1/usage?from={offset}")).json["from"] == before


async def test_a_tenant_sees_its_own(admin: AsgiClient, harness: ApiHarness, used: Database) -> None:
    """A tenant's key, and an admin key that acts for one, see that tenant's usage alone; another's is forbidden."""
    made = await admin.post("/v1/tenants/acme/keys", {"name": "n", "scopes": ["read"]})
    own = AsgiClient(harness.api, made.json["key"])
    acting = AsgiClient(harness.api, ADMIN_KEY, X_Tollway_Tenant="acme")
    for client in (own, acting):
        for path in ("/v1/usage?group_by=tenant", "/v1/usage/runs?group_by=tenant"):
            assert [row["tenant"] for row in (await client.get(path)).json["items"]] == ["acme"]
        assert (await client.get("/v1/usage")).json["total"]["cost_nano"] == 4_000_000_000
    refused = await own.get("/v1/usage?tenant=default")
    assert (refused.status, refused.code) == (403, "forbidden")
    submits = await admin.post("/v1/tenants/acme/keys", {"name": "n", "scopes": ["submit"]})
    assert (await AsgiClient(harness.api, submits.json["key"]).get("/v1/usage")).status == 403


async def test_pages_come_to_the_whole(admin: AsgiClient, used: Database) -> None:
    """Pages of one row each are all rows in their order, each once, and every page has the same total."""
    path = "/v1/usage?group_by=day,tenant,tier,route,key"
    whole = (await admin.get(path)).json
    rows, cursor = [], ""
    while True:
        page = (await admin.get(f"{path}&limit=1{cursor}")).json
        rows += page["items"]
        assert page["total"] == whole["total"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert rows == whole["items"]
    assert len(rows) == 5


async def test_csv_is_safe_to_open(admin: AsgiClient, used: Database) -> None:
    """As CSV all rows come at once, with a line of names; a name that a spreadsheet would run is made a text."""
    async with session(used.options.url) as writer:
        await enter(writer, step="=cmd|' /C calc'!A1", agent='say "hi", twice')
    await count_all(Rollup(used))
    for answer in (
        await admin.get("/v1/usage?group_by=agent,step&format=csv"),
        await admin.send("GET", "/v1/usage?group_by=agent,step", headers={"accept": "text/csv"}),
    ):
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
        assert [(row["agent"], row["step"]) for row in rows] == [
            ("", ""),
            ('say "hi", twice', "'=cmd|' /C calc'!A1"),
            ("triage", "answer"),
        ]
        assert (rows[2]["cost_usd"], rows[2]["cost_nano"]) == ("4.000000000", "4000000000")
        assert (rows[2]["runs"], rows[2]["saved_prompt_cache_usd"]) == ("2", "0.500000000")


async def test_a_table_is_written_beside_the_loop(
    admin: AsgiClient, used: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing many rows as CSV keeps no other request of the process waiting: it is done in another thread."""
    threads = set()

    def dollars(amount: float) -> str:
        threads.add(threading.get_ident())
        return str(amount)

    monkeypatch.setattr(usage, "_dollars", dollars)
    assert (await admin.get("/v1/usage?group_by=agent&format=csv")).status == 200
    assert threads
    assert threading.get_ident() not in threads


async def test_pages_of_runs_come_to_the_whole(admin: AsgiClient, database: Database) -> None:
    """Pages of one or two agents of tenants are all of them in their order, each once, as a whole page has them."""
    async with session(database.options.url) as writer:
        for n, (tenant, agent) in enumerate((tenant, agent) for tenant in "abc" for agent in ("x", "y", "é")):
            for state in ("failed", "succeeded"):
                await end_run(writer, tenant=tenant, agent=agent, state=state, llm_calls=n, cost_nano=n * 1000)
    await count_all(Rollup(database))
    path = "/v1/usage/runs?group_by=tenant"
    whole = (await admin.get(path)).json["items"]
    assert [(row["tenant"], row["agent"]) for row in whole] == [(t, a) for t in "abc" for a in ("x", "y", "é")]
    assert [row["calls_per_run"]["p50"] for row in whole] == list(range(9))
    assert all(row["states"] == {"failed": 1, "succeeded": 1} for row in whole)
    for limit in (1, 2):
        rows, cursor = [], ""
        while True:
            page = (await admin.get(f"{path}&limit={limit}{cursor}")).json
            rows += page["items"]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert rows == whole


async def test_runs_come_in_percentiles(admin: AsgiClient, harness: ApiHarness, database: Database) -> None:
    """Calls and cost a run, by agent: each percentile within 3.2 % of the true one; states and sums are exact."""
    async with session(database.options.url) as writer:
        for n in range(1, 101):
            state = "failed" if n > 90 else "succeeded"
            await end_run(writer, agent="a", llm_calls=n, cost_nano=n * 1_000_003, state=state)
        await end_run(writer, agent="b", llm_calls=0, cost_nano=0)
    await count_all(Rollup(database))
    found = (await admin.get("/v1/usage/runs")).json
    a, b = found["items"]
    assert (a["agent"], a["runs"], a["states"], a["calls"]) == ("a", 100, {"failed": 10, "succeeded": 90}, 5050)
    assert a["cost_nano"] == 5050 * 1_000_003
    for name, true in (("p50", 50), ("p90", 90), ("p99", 99)):
        assert a["calls_per_run"][name] == pytest.approx(true, rel=0.032)
        assert a["cost_nano_per_run"][name] == pytest.approx(true * 1_000_003, rel=0.032)
        assert a["cost_usd_per_run"][name] == pytest.approx(true * 1_000_003 / 1e9, rel=0.032)
    assert (b["calls_per_run"]["p99"], b["cost_usd_per_run"]["p50"]) == (0, 0)
    first = (await admin.get("/v1/usage/runs?limit=1")).json
    second = (await admin.get(f"/v1/usage/runs?limit=1&cursor={first['next']}")).json
    assert ([first["items"], second["items"]], second["next"]) == ([[a], [b]], None)
    assert [row["agent"] for row in (await admin.get("/v1/usage/runs?agent=b&group_by=tenant")).json["items"]] == ["b"]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("group_by=colour", "group_by"),
        ("group_by=tier,tier", "group_by"),
        ("from=2026-02-01&to=2026-02-01", "from"),
        ("from=2026-02-02&to=2026-02-01", "from"),
        ("from=1999-12-31", "from"),
        ("from=2001-01-01&to=2026-01-01", "from"),
        ("from=yesterday", "from"),
        ("from=2026-02-30T12:00:00Z", "from"),
        ("to=9999-12-31", "to"),
        ("cursor=x", "cursor"),
        ("cursor=WyJhIl0", "cursor"),
        ("limit=0", "limit"),
        ("format=xml", "format"),
        ("agent=", "agent"),
        ("colour=red", "colour"),
        ("tenant=a&tenant=b", "tenant"),
    ],
)
async def test_what_cannot_be_meant_is_refused(admin: AsgiClient, query: str, path: str) -> None:
    """An unknown group, days that are none or in the wrong order, an unknown filter: 422 that names it. (P11)"""
    answer = await admin.get(f"/v1/usage?{query}")
    assert (answer.status, answer.code) == (422, "invalid_input")
    assert [error["path"] for error in answer.json["errors"]] == [path]


async def test_times_mean_the_days_they_fall_into(admin: AsgiClient) -> None:
    """Usage is kept by days: a time within one means all of it, and the answer says so."""
    told = (await admin.get("/v1/usage?from=2026-01-31T12:00:00Z&to=2026-02-01T00:30:00%2B01:00")).json
    assert (told["from"], told["to"]) == ("2026-01-31", "2026-02-01")
    told = (await admin.get("/v1/usage?from=2026-01-31T00:00:00Z&to=2026-01-31T00:00:01Z")).json
    assert (told["from"], told["to"]) == ("2026-01-31", "2026-02-01")


async def test_nothing_used_is_an_answer(admin: AsgiClient) -> None:
    """Without any usage lists are empty and sums nought."""
    assert (await admin.get("/v1/usage?group_by=agent")).json["items"] == []
    assert [row["calls"] for row in (await admin.get("/v1/usage")).json["items"]] == [0]
    assert (await admin.get("/v1/usage/runs")).json["items"] == []
    assert (await admin.get("/v1/usage?group_by=agent&format=csv")).body.count(b"\n") == 1
