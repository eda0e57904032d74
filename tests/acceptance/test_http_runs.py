"""The contract of runs that are there: reading, listing, following, cancelling, replaying, dead letters; black-box."""

import json
import uuid
from typing import Any

import pytest
from stack_kit import FINAL, Http, until


def test_events_as_a_list(http: Http) -> None:
    """Events are numbered from 1 without a gap, each with type, time, actor and data; pages follow each other."""
    run = http.result("journey", True)
    events = http.events(run["id"])
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert all(set(event) >= {"seq", "type", "at", "actor", "data"} for event in events)
    assert all(event["actor"]["kind"] in ("key", "worker", "agent", "user", "keeper") for event in events)
    assert (events[0]["type"], events[-1]["type"]) == ("accepted", "succeeded")
    found: list[dict[str, Any]] = []
    cursor = ""
    while cursor is not None:
        page = http.get(f"/v1/runs/{run['id']}/events?limit=7{cursor and f'&cursor={cursor}'}").json
        found += page["items"]
        cursor = page["next"]
    assert found == events


def test_steps(http: Http) -> None:
    """Steps have the contract's fields, in the order of their numbers."""
    run = http.result("journey", False)
    steps = http.steps(run["id"])
    fields = {
        "n", "name", "kind", "state", "attempt", "route", "cached", "input_tokens", "output_tokens", "cost_usd",
        "calls", "started_at", "ended_at", "error",
    }  # fmt: skip
    assert all(set(step) >= fields for step in steps)
    assert [step["n"] for step in steps] == list(range(1, 9))
    assert run["usage"]["steps"] == 8


def test_following_and_resuming(http: Http) -> None:
    """The stream tells every event with its number as `id:`, resumes after `Last-Event-ID`, and ends after the last."""
    run_id = http.submit("slow", 0.5)["id"]
    path = f"/v1/runs/{run_id}/events"
    with http.stream("GET", path) as (head, frames):
        assert head.status == 200
        found = [frame for frame in frames if "event" in frame]
    events = http.events(run_id)
    assert [(int(frame["id"]), frame["event"]) for frame in found] == [(e["seq"], e["type"]) for e in events]
    assert [json.loads(frame["data"]) for frame in found] == events
    with http.stream("GET", path, last_event_id="2") as (_, frames):
        assert [int(frame["id"]) for frame in frames if "id" in frame] == [e["seq"] for e in events[2:]]
    with http.stream("GET", path, last_event_id="99") as (_, frames):
        assert [frame for frame in frames if "id" in frame] == []
    with http.stream("GET", path, last_event_id="x") as (head, _):
        head.problem(422, "invalid_input")


def test_listing(http: Http) -> None:
    """Runs are listed newest first and filtered by state, agent, lane, time and metadata, page by page."""
    mark = uuid.uuid4().hex
    ids = [http.submit("echo", n, lane=lane, metadata={"mark": mark, "n": str(n)})["id"]
           for n, lane in enumerate(("batch", "standard", "batch"))]  # fmt: skip
    for run_id in ids:
        http.ended(run_id)

    def found(query: str) -> list[str]:
        return [run["id"] for run in http.items(f"/v1/runs?metadata.mark={mark}{query}")]

    assert found("") == ids[::-1]
    assert found("&lane=batch") == [ids[2], ids[0]]
    assert found("&metadata.n=1") == [ids[1]]
    assert found("&state=succeeded&agent=echo&tenant=default") == ids[::-1]
    assert found("&state=failed") == []
    middle = http.run(ids[1])["created_at"]
    assert ids[0] not in found(f"&created_after={middle}")
    assert ids[2] not in found(f"&created_before={middle}")
    page = http.get(f"/v1/runs?metadata.mark={mark}&limit=2").json
    assert [run["id"] for run in page["items"]] == [ids[2], ids[1]]
    rest = http.get(f"/v1/runs?metadata.mark={mark}&limit=2&cursor={page['next']}").json
    assert ([run["id"] for run in rest["items"]], rest["next"]) == ([ids[0]], None)


@pytest.mark.parametrize(
    "query",
    ["state=asleep", "limit=0", "limit=501", "limit=x", "cursor=x", "created_after=yesterday", "colour=red",
     "agent=a&agent=b", "agent=%00", "agent=", "tenant=%ff"],
)  # fmt: skip
def test_a_bad_query(http: Http, query: str) -> None:
    """A filter that is unknown, twice there or senseless is refused."""
    answer = http.get(f"/v1/runs?{query}")
    if query == "tenant=%ff":  # a tenant nobody has
        assert answer.status in (200, 404, 422)
    else:
        answer.problem(422, "invalid_input")


@pytest.mark.parametrize("tail", ["", "/events", "/steps"])
@pytest.mark.parametrize("run_id", ["x", "0", "019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071", "%00", "a" * 300, "batch"])
def test_no_such_run(http: Http, run_id: str, tail: str) -> None:
    """What is no run is 404, whatever it looks like."""
    answer = http.get(f"/v1/runs/{run_id}{tail}")
    answer.problem(404, "not_found")
    if not tail:
        for verb in ("cancel", "replay"):
            http.post(f"/v1/runs/{run_id}/{verb}").problem(404, "not_found")


def test_routes_and_methods(http: Http) -> None:
    """An unknown route is 404, a wrong method 405 with `Allow`; HEAD answers as GET without the body."""
    http.get("/v2/runs").problem(404, "not_found")
    http.get("/").problem(404, "not_found")
    run_id = http.result("echo", 1)["id"]
    for method, path in (("PUT", "/v1/runs"), ("DELETE", f"/v1/runs/{run_id}"), ("GET", "/v1/runs/cancel/x/y"),
                         ("PATCH", f"/v1/runs/{run_id}/events"), ("POST", "/healthz")):  # fmt: skip
        answer = http.call(method, path)
        if path.endswith("/x/y"):
            answer.problem(404, "not_found")
            continue
        answer.problem(405, "method_not_allowed")
        assert method not in answer.headers["allow"]
        assert answer.headers["allow"]
    for path in (f"/v1/runs/{run_id}", "/v1/runs", "/healthz", "/readyz", f"/v1/runs/{run_id}/events"):
        got, head = http.get(path), http.call("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        assert int(head.headers["content-length"]) > 0
    assert http.call("HEAD", "/v1/runs/x").status == 404


def test_cancel_while_queued(http: Http) -> None:
    """A queued run is cancelled at once: 202, then 200; it never starts."""
    run_id = http.submit("echo", 1, delay_s=600)["id"]
    answer = http.post(f"/v1/runs/{run_id}/cancel")
    assert (answer.status, answer.json["state"]) == (202, "cancelled")
    assert http.post(f"/v1/runs/{run_id}/cancel").status == 200
    run = http.run(run_id)
    assert (run["state"], run["started_at"]) == ("cancelled", None)
    last = http.events(run_id)[-1]
    assert (last["type"], last["actor"]["kind"]) == ("cancelled", "key")


def test_cancel_while_running(http: Http) -> None:
    """A running run is told to stop and soon is cancelled, by the key that asked."""
    run_id = http.submit("slow", 3600)["id"]
    until(lambda: http.run(run_id)["state"] == "running", "the start")
    assert http.post(f"/v1/runs/{run_id}/cancel", {}).status == 202
    run = http.ended(run_id)
    assert (run["state"], run["output"], run["error"]) == ("cancelled", None, None)
    assert http.post(f"/v1/runs/{run_id}/cancel").status == 200
    assert http.events(run_id)[-1]["actor"]["kind"] == "key"


def test_cancel_between_attempts(http: Http) -> None:
    """A run that waits for its next attempt is cancelled at once."""
    run_id = http.submit("troubled", {"how": "retry", "after_s": 3600})["id"]
    until(lambda: http.run(run_id)["blocked"], "the pause")
    answer = http.post(f"/v1/runs/{run_id}/cancel")
    assert (answer.status, answer.json["state"]) == (202, "cancelled")


@pytest.mark.parametrize(
    ("agent", "input", "state"),
    [("echo", 1, "succeeded"), ("troubled", {"how": "reject"}, "failed"), ("hasty", None, "dead")],
)
def test_cancel_after_the_end(http: Http, agent: str, input: Any, state: str) -> None:
    """An ended run stays as it is: 409."""
    run = http.result(agent, input)
    assert run["state"] == state
    problem = http.post(f"/v1/runs/{run['id']}/cancel").problem(409, "run_final")
    assert state in problem["detail"]
    assert http.run(run["id"]) == run


def test_cancelling_many(http: Http) -> None:
    """Without `confirm` they are counted; with a wrong count nothing happens; with the right one all are cancelled."""
    mark = uuid.uuid4().hex
    ids = [http.submit("slow", 3600, delay_s=delay, metadata={"mark": mark})["id"] for delay in (0, 600, 600)]
    until(lambda: http.run(ids[0])["state"] == "running", "the start")
    wanted = {"filter": {"metadata": {"mark": mark}}}
    answer = http.post("/v1/runs/cancel", wanted)
    assert (answer.status, answer.json) == (200, {"count": 3})
    problem = http.post("/v1/runs/cancel", {**wanted, "confirm": 2}).problem(409, "confirm_mismatch")
    assert problem["count"] == 3
    assert all(http.run(run_id)["state"] in ("queued", "running") for run_id in ids)
    answer = http.post("/v1/runs/cancel", {**wanted, "confirm": 3})
    assert (answer.status, answer.json["count"]) == (202, 3)
    assert [http.ended(run_id)["state"] for run_id in ids] == ["cancelled"] * 3
    assert http.post("/v1/runs/cancel", wanted).json == {"count": 0}
    for body in ({}, {"filter": []}, {"filter": {"colour": 1}}, {"filter": {}, "confirm": -1}, {"filter": {}, "x": 1}):
        http.post("/v1/runs/cancel", body).problem(422, "invalid_input")


def test_replay(http: Http) -> None:
    """A replay is a new run of the same request; the old one's history tells of it, its state does not change."""
    old = http.result("greet", {"name": "Ada"}, metadata={"a": "b"})
    answer = http.post(f"/v1/runs/{old['id']}/replay")
    assert answer.status == 202
    new = http.ended(answer.json["id"])
    assert new["replay_of"] == old["id"] != new["id"]
    assert [new[name] for name in ("input", "output", "metadata", "lane")] == [
        old[name] for name in ("input", "output", "metadata", "lane")
    ]
    assert http.run(old["id"]) == old
    last = http.events(old["id"])[-1]
    assert (last["type"], last["data"]["run_id"]) == ("replayed", new["id"])


def test_replay_with_another_input(http: Http) -> None:
    """`input` replaces the old one, and must fit the agent."""
    old = http.result("greet", {"name": "Ada"})
    path = f"/v1/runs/{old['id']}/replay"
    new = http.ended(http.post(path, {"input": {"name": "Grace"}}).json["id"])
    assert new["output"]["text"] == "Hello Grace"
    for body in ({"input": {}}, {"inputs": 1}, {"from_step": 0}, {"from_step": 99}, {"from_step": "x"}, []):
        http.post(path, body).problem(422, "invalid_input")


def test_replay_from_a_step(http: Http) -> None:
    """Steps before `from_step` are taken over as they were; from there on they happen anew."""
    old = http.result("journey", False)
    answer = http.post(f"/v1/runs/{old['id']}/replay", {"from_step": 2})
    assert answer.status == 202
    new = http.ended(answer.json["id"])
    assert new["state"] == "succeeded", new
    assert new["output"]["first"] == old["output"]["first"]
    assert new["output"]["second"] != old["output"]["second"]
    assert len(http.steps(new["id"])) == 8


def test_replay_of_what_has_not_ended(http: Http) -> None:
    """A run that goes on cannot be replayed: 409."""
    run_id = http.submit("echo", 1, delay_s=600)["id"]
    http.post(f"/v1/runs/{run_id}/replay").problem(409, "conflict")
    http.post(f"/v1/runs/{run_id}/cancel")


def test_dead_letters(http: Http) -> None:
    """Dead runs are grouped by what killed them; replayed by id or, after counting, by filter, they leave the list."""
    client = http.make_key(f"dead-{uuid.uuid4().hex[:8]}", "submit", "read")
    ids = [
        client.submit("troubled", {"times": 9, "how": how}, max_attempts=1)["id"] for how in ("raise", "raise", "llm")
    ]
    assert all(client.ended(run_id)["state"] == "dead" for run_id in ids)
    groups = {group["code"]: group for group in client.items("/v1/dead-letters")}
    assert {code: group["count"] for code, group in groups.items()} == {"RuntimeError": 2, "unknown_tier": 1}
    group = groups["RuntimeError"]
    assert set(group["run_ids"]) == set(ids[:2])
    assert group["agent"] == "troubled"
    page = client.get("/v1/dead-letters?limit=1").json
    assert len(page["items"]) == 1
    assert len(client.get(f"/v1/dead-letters?limit=1&cursor={page['next']}").json["items"]) == 1

    answer = client.post("/v1/dead-letters/replay", {"ids": [ids[2], "nonsense"]})
    assert answer.status == 202
    assert [result["status"] for result in answer.json["results"]] == [202, 404]
    sound = client.result("echo", 1)["id"]
    (refused,) = client.post("/v1/dead-letters/replay", {"ids": [sound]}).json["results"]
    assert (refused["status"], refused["error"]["code"]) == (409, "conflict")
    wanted = {"filter": {"fingerprint": group["fingerprint"]}}
    assert client.post("/v1/dead-letters/replay", wanted).json == {"count": 2}
    client.post("/v1/dead-letters/replay", {**wanted, "confirm": 3}).problem(409, "confirm_mismatch")
    answer = client.post("/v1/dead-letters/replay", {**wanted, "confirm": 2})
    assert (answer.status, answer.json["replayed"]) == (202, 2)
    again = [client.ended(result["run"]["id"]) for result in answer.json["results"]]
    assert all(run["replay_of"] in ids for run in again)
    left = [run_id for group in client.items("/v1/dead-letters") for run_id in group["run_ids"]]
    assert not set(left) & set(ids)
    for body in ({}, {"ids": [], "filter": {}}, {"ids": []}, {"filter": {"colour": "red"}}, {"ids": ["x"], "y": 1}):
        client.post("/v1/dead-letters/replay", body).problem(422, "invalid_input")


def test_the_letters_of_a_group_and_what_to_do_with_them(http: Http) -> None:
    """A group's runs are shown with cost and journal; one is discarded, one replayed, what dies later is left alone."""
    client = http.make_key(f"dead-{uuid.uuid4().hex[:8]}", "submit", "read", "cancel")

    def die() -> str:
        run_id: str = client.submit("troubled", {"times": 9}, max_attempts=1)["id"]
        assert client.ended(run_id)["state"] == "dead"
        return run_id

    ids = [die() for _ in range(3)]
    (group,) = client.items("/v1/dead-letters")
    letters = client.items(f"/v1/dead-letters/{group['fingerprint']}")
    assert [letter["run_id"] for letter in letters] == ids[::-1]
    assert (letters[0]["attempts"], letters[0]["code"]) == (1, "RuntimeError")
    assert client.get(letters[0]["journal"]).status == 200
    client.get("/v1/dead-letters/0000").problem(404, "not_found")

    answer = client.post("/v1/dead-letters/discard", {"ids": ids[:1]})
    assert (answer.status, answer.json["discarded"]) == (202, 1)
    assert client.events(ids[0])[-1]["type"] == "discarded"
    assert client.run(ids[0])["state"] == "dead"
    counted = client.post("/v1/dead-letters/replay", {"filter": {}, "snapshot": True}).json
    assert counted["count"] == 2
    later = die()
    how = {"filter": {}, "confirm": 2, "snapshot": counted["snapshot"], "from": "failed_step"}
    answer = client.post("/v1/dead-letters/replay", {**how, "input_patch": {"times": 0}})
    assert (answer.status, answer.json["replayed"]) == (202, 2), answer.json
    assert {client.ended(result["run"]["id"])["state"] for result in answer.json["results"]} == {"succeeded"}
    (left,) = client.items("/v1/dead-letters")
    assert left["run_ids"] == [later]
    again = client.post("/v1/dead-letters/replay", {**how, "input_patch": {"times": 0}}).json
    assert (again["count"], again["replayed"]) == (2, 0)


def test_a_bulk_cancel_leaves_what_came_after_the_count(http: Http) -> None:
    """Runs accepted between the count and its confirmation go on when the snapshot is given back."""
    mark = uuid.uuid4().hex
    ids = [http.submit("echo", n, delay_s=600, metadata={"mark": mark})["id"] for n in range(3)]
    wanted = {"filter": {"metadata": {"mark": mark}, "state": "queued"}}
    counted = http.post("/v1/runs/cancel", {**wanted, "snapshot": True}).json
    late = http.submit("echo", 4, delay_s=600, metadata={"mark": mark})["id"]
    http.post(f"/v1/runs/{ids[0]}/cancel")
    http.post("/v1/runs/cancel", {**wanted, "confirm": 3, "snapshot": "x"}).problem(422, "invalid_input")
    answer = http.post("/v1/runs/cancel", {**wanted, "confirm": 3, "snapshot": counted["snapshot"]})
    assert (answer.status, answer.json["cancelled"], answer.json["ended_before"]) == (202, 2, 1)
    assert http.run(late)["state"] == "queued"
    http.post(f"/v1/runs/{late}/cancel")


def test_states_are_the_contracts(http: Http) -> None:
    """Every run listed is in a state of the contract, and an ended one has its time of end."""
    for run in http.items("/v1/runs?limit=500"):
        assert run["state"] in (*FINAL, "queued", "running", "waiting", "parked")
        assert (run["ended_at"] is not None) == (run["state"] in FINAL)
