"""`PUT /v1/tenants/{id}/budgets` and `GET` of the same."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_client import AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness, LocalNews
from tollway.domain.budgets import Budget, Period, Rung
from tollway.record.budgets import put_budgets
from tollway.record.database import Database

PATH = "/v1/tenants/default/budgets"
MONTH = {"period": "month", "hard_usd": 100, "soft_usd": 80}
WHOLE = {
    "period": "day", "timezone": "Europe/Berlin", "agent": "triage", "lane": "batch", "task_type": "legal",
    "hard_usd": 5.5, "soft_usd": 1.000000001, "on_hard": "refuse",
    "ladder": [{"at_pct": 80, "rung": "lower_tier"}], "interactive_share": 0.25,
}  # fmt: skip


async def test_they_replace_those_there_were_on_every_process(
    admin: AsgiClient, harness: ApiHarness, database: Database
) -> None:
    """The answer is the list as GET shows it, every API process has it then, and each budget says how it stands."""
    other = ApiHarness(database, LocalNews(), heartbeat_s=0.1)
    await other.api.start()
    try:
        answer = await admin.put(PATH, {"budgets": [MONTH, WHOLE]})
        assert answer.status == 200, answer.body
        month, whole = answer.json["items"]
        assert {name: whole[name] for name in WHOLE} == WHOLE
        assert (whole["hard_nano"], whole["soft_nano"]) == (5_500_000_000, 1_000_000_001)
        assert (month["timezone"], month["on_hard"], month["ladder"]) == ("UTC", "park", [])
        assert (month["spent_usd"], month["reserved_nano"], month["left_usd"], month["pct"]) == (0, 0, 100, 0)
        assert month["exhausted"] is False
        assert month["begins_at"] < month["ends_at"]
        assert [one.period for one in other.sync.snapshot.budgets["default"]] == [Period.MONTH, Period.DAY]
        assert (await AsgiClient(other.api, ADMIN_KEY).get(PATH)).json["items"] == answer.json["items"]
        again = (await admin.put(PATH, {"budgets": [MONTH | {"hard_usd": 200}]})).json["items"]
        assert [(one["id"], one["hard_usd"]) for one in again] == [(month["id"], 200)]
        assert (await admin.put(PATH, {"budgets": []})).json["items"] == []
        assert other.sync.snapshot.budgets == {}
    finally:
        await other.api.stop()


@pytest.mark.parametrize(
    ("budget", "path"),
    [
        ({"hard_usd": 1}, "period"),
        ({"period": "year", "hard_usd": 1}, "period"),
        (MONTH | {"hard_usd": -1}, "hard_usd"),
        (MONTH | {"soft_usd": -0.5}, "soft_usd"),
        (MONTH | {"hard_usd": "100"}, "hard_usd"),
        (MONTH | {"hard_usd": 79.9}, "hard_usd"),
        (MONTH | {"hard_usd": 2e9}, "hard_usd"),
        ({"period": "day"}, "hard_usd"),
        ({"period": "day", "soft_usd": 1, "ladder": [{"at_pct": 50, "rung": "alert"}]}, "hard_usd"),
        ({"period": "day", "soft_usd": 1, "interactive_share": 0.5}, "hard_usd"),
        (MONTH | {"timezone": "Mars/Olympus"}, "timezone"),
        (MONTH | {"timezone": "../../etc/passwd"}, "timezone"),
        (MONTH | {"timezone": "localtime"}, "timezone"),
        (MONTH | {"timezone": ""}, "timezone"),
        (MONTH | {"lane": "express"}, "lane"),
        (MONTH | {"agent": ""}, "agent"),
        (MONTH | {"agent": "a\nb"}, "agent"),
        (MONTH | {"agent": "x\x00"}, "agent"),
        (MONTH | {"task_type": "\u202e"}, "task_type"),
        (MONTH | {"key": "key_of_nobody"}, "key"),
        (MONTH | {"on_hard": "alert"}, "on_hard"),
        (MONTH | {"ladder": [{"at_pct": 0, "rung": "park"}]}, "ladder.0.at_pct"),
        (MONTH | {"ladder": [{"at_pct": 1001, "rung": "park"}]}, "ladder.0.at_pct"),
        (MONTH | {"ladder": [{"at_pct": 50, "rung": "park"}, {"at_pct": 50, "rung": "jump"}]}, "ladder.1.rung"),
        (MONTH | {"ladder": [{"at_pct": 50}]}, "ladder.0.rung"),
        (MONTH | {"interactive_share": 1.5}, "interactive_share"),
        (MONTH | {"colour": "red"}, "colour"),
    ],
)
async def test_bad_input_names_its_field_and_changes_nothing(
    admin: AsgiClient, budget: dict[str, Any], path: str
) -> None:
    """P11: whatever does not fit is 422 at its place, and what was there stays, the good ones left out too."""
    await admin.put(PATH, {"budgets": [WHOLE]})
    before = (await admin.get(PATH)).json
    answer = await admin.put(PATH, {"budgets": [{"period": "total", "hard_usd": 1}, budget]})
    assert (answer.status, answer.code) == (422, "invalid_input"), answer.body
    assert [error["path"] for error in answer.json["errors"]] == [f"budgets.1.{path}"]
    assert (await admin.get(PATH)).json == before


async def test_every_fault_is_named_at_once(admin: AsgiClient) -> None:
    """P11: one refusal tells of all that is wrong, and two budgets that are the same are a fault of the second."""
    twin = {"period": "month", "soft_usd": 3, "timezone": "UTC"}
    body = {"budgets": [MONTH, WHOLE | {"lane": "express", "timezone": "Nowhere"}, twin, {"period": "week"}]}
    answer = await admin.put(PATH, body)
    paths = [error["path"] for error in answer.json["errors"]]
    assert paths == ["budgets.1.timezone", "budgets.1.lane", "budgets.2", "budgets.3.hard_usd"]
    assert (await admin.get(PATH)).json["items"] == []


@pytest.mark.parametrize("amount", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity"])
async def test_amounts_that_are_no_numbers_are_named(admin: AsgiClient, amount: str) -> None:
    """P11: an amount that is not finite is 422 at its field, even where it is no JSON."""
    raw = b'{"budgets": [{"period": "day", "hard_usd": 1}, {"period": "week", "hard_usd": %b}]}' % amount.encode()
    answer = await admin.send("PUT", PATH, raw=raw)
    assert (answer.status, answer.code) == (422, "invalid_input"), answer.body
    assert answer.json["errors"][0]["path"] == "budgets.1.hard_usd"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"{", "malformed_json"),
        (b"[]", "invalid_input"),
        (b"{}", "invalid_input"),
        (b'{"budgets": 1}', "invalid_input"),
    ],
)
async def test_what_is_no_list_is_refused(admin: AsgiClient, raw: bytes, code: str) -> None:
    """P11: a body of another form is refused as everywhere."""
    answer = await admin.send("PUT", PATH, raw=raw)
    assert answer.code == code


async def test_keys_of_the_tenant_alone_may_be_named(admin: AsgiClient, harness: ApiHarness) -> None:
    """A budget of a key needs a live key of its tenant; one revoked since may stay in the list."""
    await admin.put("/v1/tenants/acme", {})
    theirs = (await admin.post("/v1/tenants/acme/keys", {"name": "k", "scopes": ["read"]})).json["id"]
    ours = (await admin.post("/v1/tenants/default/keys", {"name": "k", "scopes": ["submit"]})).json["id"]
    assert (await admin.put(PATH, {"budgets": [MONTH | {"key": theirs}]})).status == 422
    assert (await admin.put(PATH, {"budgets": [MONTH | {"key": ours}]})).json["items"][0]["key"] == ours
    assert (await admin.send("DELETE", f"/v1/tenants/default/keys/{ours}")).status == 204
    assert (await admin.put(PATH, {"budgets": [MONTH | {"key": ours, "hard_usd": 300}]})).status == 200


async def test_who_may_see_and_who_may_set(admin: AsgiClient, harness: ApiHarness) -> None:
    """Only an admin sets budgets; a tenant's key reads its own tenant's, and of others or of none hears 404."""
    await admin.put("/v1/tenants/acme", {})
    key = (await admin.post("/v1/tenants/default/keys", {"name": "k", "scopes": ["submit", "read"]})).json["key"]
    client = AsgiClient(harness.api, key)
    assert (await client.get(PATH)).json == {"items": [], "next": None}
    assert (await client.get("/v1/tenants/acme/budgets")).status == 404
    assert (await client.put(PATH, {"budgets": []})).status == 403
    assert (await AsgiClient(harness.api).get(PATH)).status == 401
    assert (await admin.get("/v1/tenants/nobody/budgets")).status == 404
    refused = await admin.put("/v1/tenants/nobody/budgets", {"budgets": [MONTH]})
    assert (refused.status, refused.code, refused.json["errors"][0]["path"]) == (422, "invalid_input", "tenant")
    assert (await admin.get(f"{PATH}?limit=3")).status == 422


AMOUNTS = st.one_of(st.none(), st.sampled_from([-1, 0, 1, 2, 2.5, 1e10]))
BUDGETS = st.lists(
    st.fixed_dictionaries(
        {"period": st.sampled_from(["day", "month", "year"]), "hard_usd": AMOUNTS, "soft_usd": AMOUNTS},
        optional={
            "agent": st.sampled_from(["triage", "echo", ""]),
            "lane": st.sampled_from(["batch", "express"]),
            "timezone": st.sampled_from(["UTC", "Asia/Tokyo", "Mars"]),
            "ladder": st.lists(
                st.fixed_dictionaries({"at_pct": st.sampled_from([-1, 50, 1000]), "rung": st.sampled_from(list(Rung))}),
                max_size=2,
            ),
        },
    ),
    max_size=3,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BUDGETS)
async def test_a_list_holds_whole_or_not_at_all(admin: AsgiClient, budgets: list[dict[str, Any]]) -> None:
    """P11: whatever is put, either every budget of it is in force after the answer, or all is as it was before."""
    before = (await admin.get(PATH)).json["items"]
    answer = await admin.put(PATH, {"budgets": budgets})
    after = (await admin.get(PATH)).json["items"]
    if answer.status == 422:
        assert answer.json["errors"]
        assert after == before
    else:
        assert answer.status == 200
        assert after == answer.json["items"]
        asked = [{name: value for name, value in one.items() if value is not None} for one in budgets]
        for one, want in _matched(after, asked):
            assert {name: one[name] for name in want} == want


def _matched(shown: list[dict[str, Any]], asked: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each shown budget beside the one that asked for it."""

    def identity(one: dict[str, Any]) -> tuple[Any, ...]:
        return (one["period"], one.get("timezone") or "UTC", one.get("agent"), one.get("lane"))

    by = {identity(one): one for one in asked}
    assert len(shown) == len(asked) == len(by)
    return [(one, by[identity(one)]) for one in shown]


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"period": "year", "hard_usd": 1}, "day, week, month, total"),
        (MONTH | {"on_hard": "fail"}, "park, refuse"),
        (MONTH | {"ladder": [{"at_pct": 1, "rung": "slow"}]}, "alert, throttle, lower_tier, fewer_tokens, cached_only"),
    ],
)
async def test_a_word_that_there_is_not_is_answered_with_those_that_there_are(
    admin: AsgiClient, budget: dict[str, Any], words: str
) -> None:
    """P11: the refusal of a period, a rung or what comes at the limit says which there are."""
    answer = await admin.put(PATH, {"budgets": [budget]})
    assert (answer.status, words in answer.json["errors"][0]["message"]) == (422, True)


async def test_a_zone_that_is_not_known_here_hides_no_other_budget(
    admin: AsgiClient, harness: ApiHarness, database: Database
) -> None:
    """As after a change of version: the list shows it without a period, and the door keeps to what is forced."""
    elsewhere = Budget(0, "default", Period.DAY, timezone="Mars/Olympus", hard_nano=1)
    put = await put_budgets(database, "default", [elsewhere, replace(elsewhere, timezone="UTC")])
    await harness.sync.changed(put.version)
    listed = await admin.get(PATH)
    assert listed.status == 200, listed.body
    strange, known = listed.json["items"]
    assert (strange["begins_at"], strange["ends_at"]) == (None, None)
    assert known["begins_at"] < known["ends_at"]
    forced = await admin.put(f"{PATH}/{strange['id']}/rungs", {"forced": ["park"]})
    assert forced.status == 200, forced.body
    run = await admin.post("/v1/runs", {"agent": "echo", "input": 1})
    assert run.status == 202, run.body
    waiting = (await admin.get(f"/v1/runs/{run.json['id']}")).json
    assert waiting["blocked"] == {"reason": "budget", "key": strange["id"], "until": None}
