"""Budgets at the door: who is refused, who waits, and what is said of it."""

from datetime import datetime
from typing import Any

import pytest

from asgi_client import AsgiClient
from ingress_kit import ApiHarness
from runtime_kit import until
from tollway.domain.errors import Problem
from tollway.domain.llm import Caller
from tollway.llm.books import Terms
from tollway.record.budgets import exhausted

PATH = "/v1/tenants/default/budgets"
DAY_S = 86_400.0


async def spend_all(harness: ApiHarness, *, ends_in_s: float | None = DAY_S, marked: bool = True) -> str:
    """Spend the newest budget, for as long as its period lasts; its id."""
    ends = None if ends_in_s is None else harness.database.clock.now() + ends_in_s
    async with harness.database.connection() as connection:
        row = await connection.fetchrow(
            "insert into budget_account (budget, begins, ends, opened, spent_nano)"
            " select id, now() - interval '1 hour', to_timestamp($1::float8), true, hard_nano"
            " from budget order by id desc limit 1 returning id, budget",
            ends,
        )
    if marked:
        assert await exhausted(harness.database, row["id"], 1)
    known = harness.api.context.admission._accounts
    harness.news.publish("budget", "")
    await until(lambda: row["budget"] in known.now)
    return str(row["budget"])


async def put(admin: AsgiClient, **settings: Any) -> None:
    """The tenant's one budget."""
    answer = await admin.put(PATH, {"budgets": [{"period": "day", "hard_usd": 1, **settings}]})
    assert answer.status == 200, answer.body


async def submit(admin: AsgiClient, agent: str = "echo", **fields: Any) -> Any:
    """The answer to a submit."""
    return await admin.post("/v1/runs", {"agent": agent, "input": {"text": "x"}, **fields})


async def test_a_budget_that_refuses_is_403_with_when_it_opens(admin: AsgiClient, harness: ApiHarness) -> None:
    """P11: single submits, batches and replays of what it covers are refused; a repeat of an accepted run is not."""
    accepted = await admin.send(
        "POST", "/v1/runs", {"agent": "echo", "input": 1}, headers={"idempotency-key": "before"}
    )
    await put(admin, agent="echo", on_hard="refuse")
    budget = await spend_all(harness)
    answer = await submit(admin)
    assert (answer.status, answer.code, answer.json["budget"]) == (403, "budget_exhausted", budget)
    opens_at = datetime.fromisoformat(answer.json["opens_at"]).timestamp()
    assert abs(opens_at - harness.database.clock.now() - DAY_S) < 60
    assert abs(int(answer.headers["retry-after"]) - DAY_S) < 60
    batch = await admin.post("/v1/runs/batch", {"runs": [{"agent": "echo", "input": 1}] * 2})
    assert [result["error"]["code"] for result in batch.json["results"]] == ["budget_exhausted"] * 2
    again = await admin.send("POST", "/v1/runs", {"agent": "echo", "input": 1}, headers={"idempotency-key": "before"})
    assert (again.status, again.json["id"]) == (202, accepted.json["id"])
    assert again.headers["idempotency-replayed"] == "true"
    fresh = await admin.send("POST", "/v1/runs", {"agent": "echo", "input": 1}, headers={"idempotency-key": "new"})
    assert (fresh.status, fresh.code) == (403, "budget_exhausted")
    assert (await submit(admin, "triage")).status == 202


@pytest.mark.parametrize(
    ("scope", "inside", "outside"),
    [
        ({"task_type": "legal"}, {"metadata": {"task_type": "legal"}}, {"metadata": {"task_type": "mail"}}),
        ({"task_type": "7"}, {"metadata": {"task_type": 7}}, {}),
        ({"lane": "batch"}, {"lane": "batch"}, {}),
        ({"agent": "echo"}, {}, {"agent": "triage"}),
        ({"key": "admin"}, {}, None),
    ],
    ids=str,
)
async def test_only_what_a_budget_covers_is_refused(
    admin: AsgiClient,
    harness: ApiHarness,
    scope: dict[str, Any],
    inside: dict[str, Any],
    outside: dict[str, Any] | None,
) -> None:
    """Agent, lane, task type and key of a submit say whether a budget is asked."""
    await put(admin, on_hard="refuse", **scope)
    await spend_all(harness)
    assert (await submit(admin, **inside)).code == "budget_exhausted"
    if outside is not None:
        assert (await submit(admin, **outside)).status == 202


async def test_a_budget_that_parks_takes_runs_and_says_that_they_wait(admin: AsgiClient, harness: ApiHarness) -> None:
    """P8: accept, look-up and list say what a run waits for and until when; the count has it blocked, not runnable."""
    await put(admin)
    budget = await spend_all(harness)
    accepted = await submit(admin)
    assert accepted.status == 202
    blocked = accepted.json["blocked"]
    assert (blocked["reason"], blocked["key"]) == ("budget", budget)
    until_ = datetime.fromisoformat(blocked["until"]).timestamp()
    assert abs(until_ - harness.database.clock.now() - DAY_S) < 60
    assert accepted.json["predicted_start_at"] == blocked["until"]
    assert (await admin.get(f"/v1/runs/{accepted.json['id']}")).json["blocked"] == blocked
    assert [run["blocked"] for run in (await admin.get("/v1/runs")).json["items"]] == [blocked]
    scaling = (await admin.get("/v1/scaling")).json
    assert (scaling["runnable"], scaling["blocked"]) == (0, 1)
    shown = (await admin.get(PATH)).json["items"][0]
    assert (shown["exhausted"], shown["spent_usd"], shown["left_usd"], shown["pct"]) == (True, 1, 0, 100)


async def test_who_cannot_wait_for_the_money_is_refused(admin: AsgiClient, harness: ApiHarness) -> None:
    """P11: a deadline or a time to live before the period turns is a 403 that says when there is money."""
    await put(admin)
    await spend_all(harness, ends_in_s=3600)
    for hurried in ({"deadline_s": 600}, {"ttl_s": 600}, {"deadline_s": 9000, "ttl_s": 600}):
        answer = await submit(admin, **hurried)
        assert (answer.status, answer.code) == (403, "budget_exhausted")
        assert answer.json["opens_at"] is not None
    assert (await submit(admin, deadline_s=9000)).status == 202


async def test_a_budget_without_an_end_opens_at_no_time(admin: AsgiClient, harness: ApiHarness) -> None:
    """`opens_at` is null where only a higher limit helps."""
    await put(admin, period="total", on_hard="refuse")
    await spend_all(harness, ends_in_s=None)
    answer = await submit(admin)
    assert (answer.code, answer.json["opens_at"]) == ("budget_exhausted", None)
    assert "retry-after" not in answer.headers


async def test_a_raised_limit_holds_at_once(admin: AsgiClient, harness: ApiHarness) -> None:
    """After the answer to a change submits are judged by it, and what waited is let go."""
    await put(admin, on_hard="refuse")
    await spend_all(harness)
    assert (await submit(admin)).status == 403
    await put(admin, on_hard="refuse", hard_usd=2)
    assert (await submit(admin)).status == 202
    assert ("due", "") in harness.news.said


async def test_rungs_of_the_ladder_close_the_door_by_what_is_spent(admin: AsgiClient, harness: ApiHarness) -> None:
    """P12: `refuse` in a ladder holds from its share of the limit on, long before nothing is left."""
    await put(admin, ladder=[{"at_pct": 100, "rung": "refuse"}])
    await spend_all(harness, marked=False)
    assert (await submit(admin)).code == "budget_exhausted"
    await put(admin, hard_usd=2, ladder=[{"at_pct": 100, "rung": "refuse"}])
    assert (await submit(admin)).status == 202


async def test_what_an_operator_forces_holds_without_a_call(admin: AsgiClient, harness: ApiHarness) -> None:
    """P12: `refuse` by hand answers 403 with the period's end, and `park` says why runs wait, before anybody spent."""
    await put(admin)
    path = f"{PATH}/{(await admin.get(PATH)).json['items'][0]['id']}/rungs"
    assert (await admin.put(path, {"forced": ["refuse"]})).status == 200
    answer = await submit(admin)
    assert (answer.status, answer.code) == (403, "budget_exhausted")
    assert answer.json["opens_at"] == (await admin.get(PATH)).json["items"][0]["ends_at"]
    assert (await admin.put(path, {"forced": ["park"]})).status == 200
    assert (await submit(admin)).json["blocked"]["reason"] == "budget"
    assert (await admin.put(path, {})).status == 200
    assert (await submit(admin)).json["blocked"] is None


async def test_a_call_over_the_wire_waits_for_nothing(admin: AsgiClient, harness: ApiHarness) -> None:
    """An exhausted budget of either kind refuses calls of clients; those it does not cover go on, and so far
    those that may be given a kept answer."""
    admission = harness.api.context.admission
    for on_hard in ("park", "refuse"):
        await put(admin, key="admin", on_hard=on_hard)
        await spend_all(harness)
        with pytest.raises(Problem, match="is spent until") as refused:
            admission.knock_to_call(Caller("default", "interactive", "admin", key_id="admin"), Terms(cache=False))
        assert refused.value.code == "budget_exhausted"
        admission.knock_to_call(Caller("default", "interactive", "key-2", key_id="key-2"), Terms(cache=False))
        admission.knock_to_call(Caller("default", "interactive", "admin", key_id="admin"), Terms(cache=True))
        await admin.put(PATH, {"budgets": []})


async def test_without_budgets_nobody_asks(admin: AsgiClient, harness: ApiHarness) -> None:
    """P9: a process reads accounts only while there is a budget, and forgets them with the last."""
    known = harness.api.context.admission._accounts
    assert not known._governed
    await put(admin)
    await spend_all(harness)
    assert known._governed
    await admin.put(PATH, {"budgets": []})
    assert (known.now, known._governed) == ({}, {})
