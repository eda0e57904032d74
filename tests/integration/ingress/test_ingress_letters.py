"""Dead letters at the door, on the real record: groups, letters, replays, discards; a worker's writes are by hand."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from asgi_client import AsgiClient
from ingress_kit import ApiHarness, bury, submit
from tollway.domain.errors import DatabaseUnavailable
from tollway.ingress import letter_replays
from tollway.record.replay import read_replayables, replay_runs

BODIES = (
    {},
    {"ids": []},
    {"ids": ["x"], "filter": {}},
    {"filter": {"state": "dead"}},
    {"filter": {"agent": 1}},
    {"filter": {}, "confirm": -1},
    {"ids": ["x"], "confirm": 1},
    {"ids": ["x"], "snapshot": True},
    {"filter": {}, "snapshot": "nonsense", "confirm": 1},
    {"filter": {}, "snapshot": "nonsense"},
    {"filter": {}, "snapshot": True, "confirm": 1},
    {"filter": {}, "nope": 1},
)
REPLAYS = (
    {"ids": ["x"], "from": "nowhere"},
    {"ids": ["x", "y"], "input": 1},
    {"filter": {}, "input": 1},
    {"ids": ["x"], "input": 1, "input_patch": {}},
    {"ids": ["x"], "input_patch": 1},
)


async def dead(client: AsgiClient, harness: ApiHarness, fingerprint: str = "f1", **fields: Any) -> str:
    """A dead run with three finished steps; its id."""
    run = await submit(client, **fields)
    await bury(harness, run, fingerprint)
    return run


async def counted(client: AsgiClient, path: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The body that confirms what was counted just now, with its snapshot."""
    told = (await client.post(path, {"filter": wanted, "snapshot": True})).json
    return {"filter": wanted, "confirm": told["count"], "snapshot": told["snapshot"]}


async def test_dead_letters_are_grouped_and_replayed(admin: AsgiClient, harness: ApiHarness) -> None:
    """Groups by fingerprint with count and cost; replay by ids or by a confirmed filter empties them."""
    runs = [await dead(admin, harness, "f2" if n == 3 else "f1") for n in range(4)]
    groups = {group["fingerprint"]: group for group in (await admin.get("/v1/dead-letters")).json["items"]}
    assert {name: group["count"] for name, group in groups.items()} == {"f1": 3, "f2": 1}
    assert groups["f1"]["cost_nano"] == 4500000003
    page = (await admin.get("/v1/dead-letters?limit=1")).json
    rest = (await admin.get(f"/v1/dead-letters?limit=1&cursor={page['next']}")).json
    assert {page["items"][0]["fingerprint"], rest["items"][0]["fingerprint"]} == {"f1", "f2"}
    answer = await admin.post("/v1/dead-letters/replay", {"ids": [runs[3], "nonsense", runs[3]]})
    assert [result["status"] for result in answer.json["results"]] == [202, 404, 409]
    assert answer.json["refused"] == {"not_found": 1, "conflict": 1}
    by_filter = {"filter": {"fingerprint": "f1"}}
    assert (await admin.post("/v1/dead-letters/replay", by_filter)).json == {"count": 3}
    assert (await admin.post("/v1/dead-letters/replay", {**by_filter, "confirm": 1})).code == "confirm_mismatch"
    answer = await admin.post("/v1/dead-letters/replay", {**by_filter, "confirm": 3})
    assert (answer.status, answer.json["replayed"], answer.json["results_left_off"]) == (202, 3, 0)
    assert (await admin.get("/v1/dead-letters")).json["items"] == []


async def test_the_letters_of_a_group(admin: AsgiClient, harness: ApiHarness) -> None:
    """Page by page, newest first, each with its cost, its attempts and the step that failed; no group is 404."""
    runs = [await dead(admin, harness) for _ in range(3)]
    async with harness.database.connection() as connection:
        await connection.execute(
            "update step set state = 'failed', error = 'no' where n = 2 and run_id = $1", UUID(runs[0])
        )
    page = (await admin.get("/v1/dead-letters/f1?limit=2")).json
    assert [letter["run_id"] for letter in page["items"]] == runs[:0:-1]
    assert page["items"][0]["failed_step"] is None
    (last,) = (await admin.get(f"/v1/dead-letters/f1?cursor={page['next']}&agent=echo&code=boom")).json["items"]
    assert last["failed_step"] == {"n": 2, "name": "s", "kind": "task", "state": "failed", "error": "no"}
    assert (last["run_id"], last["attempts"], last["cost_nano"], last["steps"]) == (runs[0], 3, 1500000001, 3)
    assert (await admin.get(last["journal"])).json["items"][0]["n"] == 1
    assert (await admin.get("/v1/dead-letters/f9")).code == "not_found"
    for query in ("cursor=x", "fingerprint=f1", "limit=0", "nope=1"):
        assert (await admin.get(f"/v1/dead-letters/f1?{query}")).code == "invalid_input"


@pytest.mark.parametrize("path", ["replay", "discard"])
async def test_bad_bodies_are_refused(admin: AsgiClient, path: str) -> None:
    """Neither or both of ids and filter, unknown fields, counts and snapshots that make no sense: 422."""
    for body in (*BODIES, *(REPLAYS if path == "replay" else ({"ids": ["x"], "from": "start"},))):
        answer = await admin.post(f"/v1/dead-letters/{path}", body)
        assert (answer.status, answer.code) == (422, "invalid_input"), body


async def test_a_replay_from_the_failed_step_keeps_what_is_finished(admin: AsgiClient, harness: ApiHarness) -> None:
    """All finished steps are kept, also those after the failed one; so is the doubt about one that was cut (P2)."""
    run = await dead(admin, harness, agent="triage", input={"text": "hello", "tags": {"a": 1, "b": 2}})
    async with harness.database.connection() as connection:
        await connection.execute("update step set state = 'failed', result = null where n = 1")
        await connection.execute("update step set state = 'unknown', result = null, error = 'cut' where n = 2")
    body = {"ids": [run], "from": "failed_step", "input_patch": {"text": "bye", "tags": {"a": None}}}
    (result,) = (await admin.post("/v1/dead-letters/replay", body)).json["results"]
    new = result["run"]
    assert new["input"] == {"text": "bye", "tags": {"b": 2}}
    steps = (await admin.get(f"/v1/runs/{new['id']}/steps")).json["items"]
    assert [(step["n"], step["state"], step["cost_nano"]) for step in steps] == [(1, "unknown", 0), (2, "done", 0)]
    assert (await admin.get(f"/v1/runs/{new['id']}")).json["usage"]["steps"] == 2
    answer = await admin.post(f"/v1/runs/{run}/replay", {"from": "failed_step", "input": {"text": "x"}})
    assert len((await admin.get(f"/v1/runs/{answer.json['id']}/steps")).json["items"]) == 2
    assert (await admin.get(f"/v1/runs/{run}/events")).json["items"][-1]["data"] == {"run_id": answer.json["id"]}
    for wrong in ({"from": "failed_step", "from_step": 1}, {"from": "x"}, {"input_patch": {"text": None}}):
        assert (await admin.post(f"/v1/runs/{run}/replay", wrong)).code == "invalid_input"


async def test_an_input_that_does_not_fit_is_refused_alone(admin: AsgiClient, harness: ApiHarness) -> None:
    """A patch is checked against each run's agent and input; who does not fit is refused, the others are replayed."""
    runs = [await dead(admin, harness, input=1), await dead(admin, harness, agent="triage", input={"text": "a"})]
    body = {"ids": runs, "input_patch": {"mark": 1}}
    answer = (await admin.post("/v1/dead-letters/replay", body)).json
    assert (answer["replayed"], answer["refused"]) == (1, {"invalid_input": 1})
    assert "the input of run" in answer["results"][0]["error"]["detail"]
    assert answer["results"][1]["run"]["input"] == {"text": "a", "mark": 1}


async def test_of_two_replays_of_a_letter_one_wins(admin: AsgiClient, harness: ApiHarness) -> None:
    """Replayed by many at once, each letter becomes one new run; the others hear 409, and nothing is doubled."""
    runs = [await dead(admin, harness) for _ in range(20)]
    asked = [runs, runs[::-1], runs[10:] + runs[:10]]
    answers = await asyncio.gather(*(admin.post("/v1/dead-letters/replay", {"ids": ids}) for ids in asked))
    statuses = [result["status"] for answer in answers for result in answer.json["results"]]
    assert (statuses.count(202), statuses.count(409)) == (20, 40)
    assert len((await admin.get("/v1/runs?state=queued")).json["items"]) == 20
    events = (await admin.get(f"/v1/runs/{runs[0]}/events")).json["items"]
    assert [event["type"] for event in events] == ["accepted", "dead", "replayed"]
    (again,) = (await admin.post("/v1/dead-letters/replay", {"ids": runs[:1]})).json["results"]
    assert again["error"]["replayed_as"] == events[2]["data"]["run_id"]


async def test_replays_of_one_run_at_once_are_all_told(admin: AsgiClient, harness: ApiHarness) -> None:
    """An ended run may be replayed as often as one likes, at once too; its history tells of each, without a gap."""
    run = await dead(admin, harness)
    answers = await asyncio.gather(*(admin.post(f"/v1/runs/{run}/replay") for _ in range(12)))
    assert [answer.status for answer in answers] == [202] * 12
    events = (await admin.get(f"/v1/runs/{run}/events")).json["items"]
    assert [event["seq"] for event in events] == list(range(1, 15))
    assert {event["data"]["run_id"] for event in events[2:]} == {answer.json["id"] for answer in answers}


async def test_a_lost_answer_doubles_no_replay(
    admin: AsgiClient, harness: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay whose answer was lost after its commit is asked for again, and counts as done (P1)."""
    run = await dead(admin, harness)

    async def forgetful(*given: Any, **named: Any) -> frozenset[UUID]:
        await replay_runs(*given, **named)
        return await replay_runs(*given, **named)

    monkeypatch.setattr(letter_replays, "replay_runs", forgetful)
    body = {"ids": [run], "from": "failed_step"}
    answer = (await admin.post("/v1/dead-letters/replay", body)).json
    assert answer["replayed"] == 1
    assert len((await admin.get("/v1/runs?state=queued")).json["items"]) == 1


async def test_discarded_letters_leave_the_list(admin: AsgiClient, harness: ApiHarness) -> None:
    """By ids or by filter; the run stays dead, its history says who; a discarded letter is not replayed with others."""
    runs = [await dead(admin, harness, "f2" if n == 3 else "f1") for n in range(4)]
    answer = await admin.post("/v1/dead-letters/discard", {"ids": [runs[0], "nonsense", runs[0]]})
    assert (answer.status, [result["status"] for result in answer.json["results"]]) == (202, [202, 404, 409])
    assert (answer.json["discarded"], answer.json["refused"]) == (1, {"not_found": 1, "conflict": 1})
    event = (await admin.get(f"/v1/runs/{runs[0]}/events")).json["items"][-1]
    assert (event["type"], event["actor"]) == ("discarded", {"kind": "key", "id": "admin"})
    assert (await admin.get(f"/v1/runs/{runs[0]}")).json["state"] == "dead"
    (refused,) = (await admin.post("/v1/dead-letters/replay", {"ids": runs[:1]})).json["results"]
    assert refused["status"] == 409
    assert "was discarded" in refused["error"]["detail"]
    assert (await admin.post(f"/v1/runs/{runs[0]}/replay")).status == 202
    assert (await admin.post("/v1/dead-letters/discard", {"filter": {"fingerprint": "f1"}})).json == {"count": 2}
    answer = await admin.post("/v1/dead-letters/discard", {"filter": {"fingerprint": "f1"}, "confirm": 2})
    assert answer.json["discarded"] == 2
    assert [group["fingerprint"] for group in (await admin.get("/v1/dead-letters")).json["items"]] == ["f2"]


async def test_a_key_deals_with_its_own_letters_only(admin: AsgiClient, harness: ApiHarness) -> None:
    """Another tenant's letters are not there: not in the list, not to be replayed or discarded."""
    run = await dead(admin, harness)
    await admin.send("PUT", "/v1/tenants/other", {})
    scopes = {"name": "k", "scopes": ["read", "submit", "cancel"]}
    key = (await admin.post("/v1/tenants/other/keys", scopes)).json["key"]
    other = AsgiClient(harness.api, key)
    assert (await other.get("/v1/dead-letters/f1")).code == "not_found"
    for path in ("replay", "discard"):
        assert (await other.post(f"/v1/dead-letters/{path}", {"ids": [run]})).json["results"][0]["status"] == 404
        assert (await other.post(f"/v1/dead-letters/{path}", {"filter": {}})).json == {"count": 0}
    assert (await admin.get("/v1/dead-letters")).json["items"][0]["count"] == 1
    reader = (await admin.post("/v1/tenants/other/keys", {"name": "r", "scopes": ["read", "submit"]})).json["key"]
    assert (await AsgiClient(harness.api, reader).post("/v1/dead-letters/discard", {"filter": {}})).code == "forbidden"


async def test_a_snapshot_acts_on_what_was_counted(admin: AsgiClient, harness: ApiHarness) -> None:
    """What dies after the count is left alone, what was dealt with since is not missed; the count must be its own."""
    runs = [await dead(admin, harness) for _ in range(3)]
    late = await submit(admin)
    body = await counted(admin, "/v1/dead-letters/replay", {"agent": "echo"})
    assert body["confirm"] == 3
    await bury(harness, late)
    assert (await admin.post("/v1/dead-letters/replay", {**body, "confirm": 4})).code == "confirm_mismatch"
    assert (await admin.post("/v1/dead-letters/replay", {**body, "filter": {}})).code == "invalid_input"
    assert (await admin.post("/v1/dead-letters/replay", {"filter": body["filter"], "confirm": 3})).json["count"] == 4
    await admin.post("/v1/dead-letters/discard", {"ids": runs[:1]})
    answer = (await admin.post("/v1/dead-letters/replay", body)).json
    assert (answer["count"], answer["replayed"]) == (3, 2)
    (group,) = (await admin.get("/v1/dead-letters")).json["items"]
    assert group["run_ids"] == [late]


async def test_long_answers_are_bounded(
    admin: AsgiClient, harness: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are shown as long as there is room, from the first on; the counts tell of all."""
    runs = [await dead(admin, harness, input="x" * 1000) for _ in range(5)]
    monkeypatch.setattr(letter_replays, "RESULTS_BYTES_MAX", 3500)
    body = {"filter": {}, "confirm": 5}
    answer = (await admin.post("/v1/dead-letters/replay", body)).json
    assert [result["id"] for result in answer["results"]] == runs[:2]
    assert (answer["count"], answer["replayed"], answer["results_left_off"]) == (5, 5, 3)


async def test_great_inputs_are_read_a_few_at_a_time(
    admin: AsgiClient, harness: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the inputs are together, all are replayed, and never more of them are in memory than the bound."""
    runs = [await dead(admin, harness, input="x" * size) for size in (10, 3000, 20, 1500, 1500, 30)]
    monkeypatch.setattr("tollway.record.replay.INPUT_BYTES_MAX", 2000)
    first = await read_replayables(harness.database, [UUID(run) for run in runs])
    assert [str(one.id) for one in first if one is not None] == runs[:1]
    alone = await read_replayables(harness.database, [UUID(run) for run in runs[1:]])
    assert [str(one.id) for one in alone if one is not None] == runs[1:2]
    answer = (await admin.post("/v1/dead-letters/replay", {"ids": [*runs, "nonsense"]})).json
    assert [result["status"] for result in answer["results"]] == [202] * 6 + [404]
    assert [len(result["run"]["input"]) for result in answer["results"][:6]] == [10, 3000, 20, 1500, 1500, 30]


async def test_an_outage_in_the_middle_is_told(
    admin: AsgiClient, harness: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was replayed before the database went away stays so; the rest is told as not done, to be asked again."""
    runs = [await dead(admin, harness) for _ in range(5)]
    calls = 0

    async def failing(*given: Any, **named: Any) -> frozenset[UUID]:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise DatabaseUnavailable("gone")
        return await replay_runs(*given, **named)

    monkeypatch.setattr(letter_replays, "replay_runs", failing)
    monkeypatch.setattr(letter_replays, "_PAUSE_S", 0.0)
    monkeypatch.setattr(letter_replays, "_CHUNK", 2)
    answer = (await admin.post("/v1/dead-letters/replay", {"filter": {}, "confirm": 5})).json
    assert (answer["count"], answer["replayed"], answer["refused"]) == (5, 2, {"database_unavailable": 3})
    assert [result["id"] for result in answer["results"]] == runs
    monkeypatch.setattr(letter_replays, "replay_runs", replay_runs)
    assert (await admin.post("/v1/dead-letters/replay", {"filter": {}, "confirm": 3})).json["replayed"] == 3
