"""The contract of `POST /v1/runs` and `/v1/runs/batch`, black-box: what is accepted, what is refused, nothing twice."""

import http.client as http_client
import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stack_kit import Http, Stack

RUN_FIELDS = {
    "id", "tenant", "agent", "version", "lane", "state", "blocked", "input", "output", "error", "attempt", "metadata",
    "trace_id", "usage", "degraded", "replay_of", "created_at", "predicted_start_at", "started_at", "ended_at",
}  # fmt: skip
USAGE_FIELDS = {
    "llm_calls", "steps", "tool_calls", "input_tokens", "output_tokens", "cached_tokens", "cost_usd", "cost_nano",
}  # fmt: skip
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def raw(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body


def deep(levels: int) -> bytes:
    return b'{"agent":"echo","input":' + b"[" * levels + b"]" * levels + b"}"


def count_runs(http: Http, agent: str | None = None) -> int:
    """How many runs a filter means, by the count that bulk cancel tells, and those that ended."""
    total, cursor = 0, ""
    while True:
        page = http.get(f"/v1/runs?limit=500{f'&agent={agent}' if agent else ''}{cursor}").json
        total += len(page["items"])
        if page["next"] is None:
            return total
        cursor = f"&cursor={page['next']}"


def test_an_accepted_run(http: Http) -> None:
    """202 with the whole run, as reading it shows it, in the contract's fields and forms."""
    answer = http.post("/v1/runs", {"agent": "slow", "input": 30, "lane": "batch", "metadata": {"a": "b"}})
    assert answer.status == 202
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    run = answer.json
    assert set(run) == RUN_FIELDS
    assert set(run["usage"]) == USAGE_FIELDS
    assert (run["agent"], run["tenant"], run["lane"], run["input"]) == ("slow", "default", "batch", 30)
    assert (run["metadata"], run["output"], run["error"], run["replay_of"]) == ({"a": "b"}, None, None, None)
    assert run["state"] == "queued"
    assert MOMENT.fullmatch(run["created_at"])
    assert run["predicted_start_at"] >= run["created_at"]
    assert (run["started_at"], run["ended_at"]) == (None, None)
    assert set(http.run(run["id"])) == RUN_FIELDS
    assert http.post(f"/v1/runs/{run['id']}/cancel").status == 202


def test_every_field_is_taken(http: Http) -> None:
    """Each optional field of a submit is accepted."""
    body = {
        "agent": "echo", "input": {}, "lane": "interactive", "priority_s": 5, "metadata": {}, "delay_s": 0,
        "deadline_s": 60, "ttl_s": 60, "max_attempts": 5, "budget_usd": 1.5, "concurrency_key": "k",
        "concurrency_policy": "queue", "webhook": {"url": "http://127.0.0.1:9/hook", "secret_env": "SECRET"},
    }  # fmt: skip
    answer = http.post("/v1/runs", body)
    assert answer.status == 202, answer.body
    assert http.ended(answer.json["id"])["state"] == "succeeded"


REFUSED: list[tuple[str | bytes, int, str, str]] = [
    ("", 400, "malformed_json", ""),
    ("{", 400, "malformed_json", ""),
    ("nonsense", 400, "malformed_json", ""),
    ('{"agent":"echo","input":NaN}', 400, "malformed_json", ""),
    ('{"agent":"echo","input":1} {}', 400, "malformed_json", ""),
    (b'{"agent":"echo","input":"\xff"}', 400, "malformed_json", "UTF-8"),
    (b'\xef\xbb\xbf{"agent":"echo","input":1}', 400, "malformed_json", ""),
    ('{"agent":"nobody","input":1}', 422, "unknown_agent", "nobody"),
    ('{"agent":"echo","input":1,"lane":"fast"}', 422, "unknown_lane", "interactive"),
    ("[]", 422, "invalid_input", ""),
    ("{}", 422, "invalid_input", "agent"),
    ('{"agent":"echo"}', 422, "invalid_input", "input"),
    ('{"agent":1,"input":1}', 422, "invalid_input", "agent"),
    ('{"agent":"echo","input":1,"colour":"red"}', 422, "invalid_input", "colour"),
    ('{"agent":"greet","input":{}}', 422, "invalid_input", "name"),
    ('{"agent":"greet","input":{"name":""}}', 422, "invalid_input", "name"),
    ('{"agent":"greet","input":{"name":"A","age":"old"}}', 422, "invalid_input", "age"),
    ('{"agent":"slow","input":"x"}', 422, "invalid_input", ""),
    ('{"agent":"echo","input":"a\\u0000b"}', 422, "invalid_input", "NUL"),
    ('{"agent":"echo","input":{"a\\u0000":1}}', 422, "invalid_input", "NUL"),
    ('{"agent":"echo","input":1,"metadata":{"k":"\\u0000"}}', 422, "invalid_input", "NUL"),
    ('{"agent":"echo","input":"\\ud800"}', 422, "invalid_input", "surrogate"),
    ('{"agent":"echo","input":"\\udc00\\ud800"}', 422, "invalid_input", "surrogate"),
    ('{"agent":"echo","input":1' + "0" * 400 + "}", 422, "invalid_input", "64 bits"),
    ('{"agent":"echo","input":-9223372036854775809}', 422, "invalid_input", "64 bits"),
    (deep(100), 422, "too_deep", "64"),
    (deep(100_000), 422, "too_deep", "64"),
    ('{"agent":"echo","input":1,"delay_s":-1}', 422, "invalid_input", "delay_s"),
    ('{"agent":"echo","input":1,"delay_s":1e300}', 422, "invalid_input", "delay_s"),
    ('{"agent":"echo","input":1,"deadline_s":0}', 422, "invalid_input", "deadline_s"),
    ('{"agent":"echo","input":1,"ttl_s":"soon"}', 422, "invalid_input", "ttl_s"),
    ('{"agent":"echo","input":1,"max_attempts":0}', 422, "invalid_input", "max_attempts"),
    ('{"agent":"echo","input":1,"max_attempts":1.5}', 422, "invalid_input", "max_attempts"),
    ('{"agent":"echo","input":1,"budget_usd":-1}', 422, "invalid_input", "budget_usd"),
    ('{"agent":"echo","input":1,"priority_s":1e9}', 422, "invalid_input", "priority_s"),
    ('{"agent":"echo","input":1,"metadata":[]}', 422, "invalid_input", "metadata"),
    ('{"agent":"echo","input":1,"concurrency_policy":"queue"}', 422, "invalid_input", "concurrency_key"),
    ('{"agent":"echo","input":1,"concurrency_key":"k","concurrency_policy":"x"}', 422, "invalid_input", "policy"),
    ('{"agent":"echo","input":1,"webhook":{"url":"ftp://x"}}', 422, "invalid_input", "webhook.url"),
    ('{"agent":"echo","input":1,"webhook":{"url":"http://x","secret":"s"}}', 422, "invalid_input", "webhook.secret"),
]


@pytest.mark.parametrize(("body", "status", "code", "says"), REFUSED, ids=[str(body[:60]) for body, *_ in REFUSED])
def test_a_bad_body_is_refused(http: Http, body: str | bytes, status: int, code: str, says: str) -> None:
    """What does not fit is refused with the contract's code, saying where and why, with `errors` where it is input."""
    problem = http.post("/v1/runs", raw(body)).problem(status, code)
    assert says in problem["detail"]
    if code == "invalid_input":
        assert all(set(error) == {"path", "message"} for error in problem["errors"])


def test_refusals_leave_nothing_behind(http: Http) -> None:
    """After any refusal there is no run more than before, and an idempotency key that was refused is free."""
    before = count_runs(http)
    key = uuid.uuid4().hex
    for body, status, *_ in REFUSED:
        assert http.post("/v1/runs", raw(body), idempotency_key=key).status == status
    assert count_runs(http) == before
    answer = http.post("/v1/runs", {"agent": "echo", "input": 1}, idempotency_key=key)
    assert answer.status == 202
    assert "idempotency-replayed" not in answer.headers


def test_depth_and_size_within_bounds(http: Http) -> None:
    """What is just within the bounds of depth and size is accepted, and brackets within strings are not depth."""
    assert http.post("/v1/runs", deep(62)).status == 202
    assert http.post("/v1/runs", {"agent": "echo", "input": "[{" * 1000}).status == 202
    assert http.post("/v1/runs", {"agent": "echo", "input": "x" * 4_000_000}).status == 202


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/runs/batch"])
def test_a_body_too_large(http: Http, path: str) -> None:
    """413 beyond the bound, whether its length is declared or it comes in chunks."""
    body = b'{"agent":"echo","input":"' + b"x" * 4_194_304 + b'"}'
    http.post(path, body).problem(413, "too_large")
    connection = http_connection(http)
    try:
        connection.request(
            "POST", path, iter([body[:100], body[100:]]), {"authorization": f"Bearer {http.key}",
            "content-type": "application/json"}, encode_chunked=True,
        )  # fmt: skip
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (413, "too_large")
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before all of it was sent, which http.client cannot read
    finally:
        connection.close()


def http_connection(http: Http) -> http_client.HTTPConnection:
    return http_client.HTTPConnection("127.0.0.1", http.port, timeout=30)


@pytest.mark.parametrize("said", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_said_to_be_json(http: Http, said: str) -> None:
    """415 for any other content type, and for none."""
    http.post("/v1/runs", b'{"agent":"echo","input":1}', content_type=said).problem(415, "unsupported_media_type")


@pytest.mark.parametrize("said", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json"])
def test_json_by_other_names(http: Http, said: str) -> None:
    """A content type with parameters, in capitals or with `+json` is JSON."""
    assert http.post("/v1/runs", b'{"agent":"echo","input":1}', content_type=said).status == 202


def test_an_idempotency_key_makes_one_run(http: Http) -> None:
    """The same key and meaning give the same run and say so; another body is 409; another tenant's key is its own."""
    key = uuid.uuid4().hex
    first = http.post("/v1/runs", b'{"agent":"echo","input":{"a":1,"b":2}}', idempotency_key=key)
    again = http.post("/v1/runs", b'{ "input": {"b":2, "a":1}, "agent":"echo" }', idempotency_key=f'"{key}"')
    assert (first.status, again.status) == (202, 202)
    assert first.json["id"] == again.json["id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = http.post("/v1/runs", {"agent": "echo", "input": 2}, idempotency_key=key)
    other.problem(409, "idempotency_conflict")
    other_tenant = http.make_key("idem-other", "submit")
    theirs = other_tenant.post("/v1/runs", {"agent": "echo", "input": 2}, idempotency_key=key)
    assert theirs.status == 202
    assert theirs.json["id"] != first.json["id"]


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ("", 422, "invalid_input"),
        (" ", 422, "invalid_input"),
        ("x" * 256, 422, "invalid_input"),
        ("ü", 422, "invalid_input"),
        ("\x7f", 400, "invalid_request"),
    ],
)
def test_a_bad_idempotency_key(http: Http, key: str, status: int, code: str) -> None:
    """An idempotency key that is empty, too long or not plain is refused; so is what no header may hold."""
    connection = http_connection(http)
    try:
        connection.putrequest("POST", "/v1/runs")
        connection.putheader("authorization", f"Bearer {http.key}")
        connection.putheader("content-type", "application/json")
        connection.putheader("idempotency-key", key.encode("latin-1"))
        connection.putheader("content-length", "26")
        connection.endheaders(b'{"agent":"echo","input":1}')
        answer = connection.getresponse()
        document = json.loads(answer.read())
    finally:
        connection.close()
    assert answer.getheader("content-type") == "application/problem+json"
    assert (answer.status, document["code"]) == (status, code)


def test_concurrent_duplicates_make_one_run(http: Http, other_api: Http) -> None:
    """Twenty requests at once with one key, on two API processes: one run, told to be a replay to all but one."""
    key = uuid.uuid4().hex

    def submit(number: int) -> Any:
        api = http if number % 2 else other_api
        return api.post("/v1/runs", {"agent": "echo", "input": 1}, idempotency_key=key)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(submit, range(20)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1


def test_prefer_wait(http: Http) -> None:
    """`Prefer: wait=N`: 200 with the ended run if it ends in time, else 202 with it as it stands."""
    answer = http.post("/v1/runs", {"agent": "echo", "input": 5}, prefer="wait=20")
    assert (answer.status, answer.json["state"], answer.json["output"]) == (200, "succeeded", 5)
    answer = http.post("/v1/runs", {"agent": "slow", "input": 60}, prefer="respond-async, wait=1")
    assert answer.status == 202
    assert answer.json["state"] in ("queued", "running")
    http.post(f"/v1/runs/{answer.json['id']}/cancel")
    key = uuid.uuid4().hex
    for _ in range(2):
        answer = http.post("/v1/runs", {"agent": "slow", "input": 0.3}, prefer="wait=20", idempotency_key=key)
        assert (answer.status, answer.json["state"]) == (200, "succeeded")
    assert answer.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("prefer", ["wait=61", "wait=-1", "wait=soon"])
def test_a_wait_that_cannot_be(http: Http, prefer: str) -> None:
    """A wait that is no number from 0 to 60 is refused, and nothing is stored."""
    before = count_runs(http, "nothing")
    body = {"agent": "nothing", "input": None}
    http.post("/v1/runs", body, prefer=prefer).problem(422, "invalid_input")
    assert count_runs(http, "nothing") == before


def test_submit_and_stream(http: Http) -> None:
    """One request submits and follows: accepted first, then tokens without an id, and the end."""
    body = {"agent": "tell", "input": "A story"}
    with http.stream("POST", "/v1/runs", body) as (head, frames):
        assert head.status == 202
        found = list(frames)
    types = [frame["event"] for frame in found if "event" in frame]
    assert types[0] == "accepted"
    assert types[-1] == "succeeded"
    tokens = [frame for frame in found if frame.get("event") == "token"]
    assert all("id" not in token for token in tokens)
    run = http.run(head.headers["location"].rpartition("/")[2])
    text = "".join(json.loads(token["data"])["data"]["text"] for token in tokens)
    assert text
    assert run["output"].endswith(text)
    assert "token" not in [event["type"] for event in http.events(run["id"])]


def test_leaving_a_stream_does_not_cancel(http: Http) -> None:
    """Who disconnects from submit-and-stream leaves a run that goes on."""
    with http.stream("POST", "/v1/runs", {"agent": "slow", "input": 0.5}) as (head, frames):
        next(frames)
    assert http.ended(head.headers["location"].rpartition("/")[2])["state"] == "succeeded"


def test_a_refused_stream_is_a_problem(http: Http) -> None:
    """A submit that is refused is a problem document, also to who asked for a stream."""
    with http.stream("POST", "/v1/runs", {"agent": "nobody", "input": 1}) as (head, _):
        head.problem(422, "unknown_agent")


def test_a_batch(http: Http) -> None:
    """Each run of a batch is accepted or refused for itself, in order, with its own idempotency key."""
    key = uuid.uuid4().hex
    one = {"agent": "echo", "input": 1, "idempotency_key": key}
    answer = http.post(
        "/v1/runs/batch",
        {"runs": [one, {"agent": "nobody", "input": 1}, one, {**one, "input": 2}, {"agent": "echo", "input": 3}, 7]},
    )
    assert answer.status == 200
    results = answer.json["results"]
    assert [result["status"] for result in results] == [202, 422, 202, 409, 202, 422]
    assert results[0]["run"]["id"] == results[2]["run"]["id"] != results[4]["run"]["id"]
    assert [results[i]["error"]["code"] for i in (1, 3, 5)] == [
        "unknown_agent",
        "idempotency_conflict",
        "invalid_input",
    ]
    assert http.ended(results[4]["run"]["id"])["output"] == 3


def test_a_batch_as_lines(http: Http) -> None:
    """NDJSON: a line a run, bad lines refused for themselves."""
    lines = b'{"agent":"echo","input":1}\n\nnonsense\r\n{"agent":"echo","input":2}'
    answer = http.post("/v1/runs/batch", lines, content_type="application/x-ndjson")
    assert answer.status == 200
    results = answer.json["results"]
    assert [result["status"] for result in results] == [202, 400, 202]
    assert results[1]["error"]["code"] == "malformed_json"


def test_a_batch_of_bounds(http: Http) -> None:
    """No run is an empty list of results; more than 10,000 are refused as a whole."""
    assert http.post("/v1/runs/batch", {"runs": []}).json == {"results": []}
    http.post("/v1/runs/batch", {"runs": [0] * 10_001}).problem(422, "invalid_input")
    http.post("/v1/runs/batch", b"1\n" * 10_001, content_type="application/x-ndjson").problem(422, "invalid_input")
    http.post("/v1/runs/batch", {"runs": 1}).problem(422, "invalid_input")
    http.post("/v1/runs/batch", {"run": []}).problem(422, "invalid_input")
    http.post("/v1/runs/batch", b"{").problem(400, "malformed_json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["agent", "input", "lane", "priority_s", "metadata", "delay_s", "deadline_s", "ttl_s", "max_attempts",
     "budget_usd", "concurrency_key", "concurrency_policy", "webhook", "idempotency_key", "x"],
)  # fmt: skip
BODIES = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(FIELDS, JSON, max_size=6).map(
        lambda body: json.dumps({"agent": "echo", "input": None, **body}).encode()
    ),
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES)
def test_no_body_breaks_the_door(stack: Stack, body: bytes) -> None:
    """Whatever is sent is accepted or refused with a problem document; never a 5xx."""
    answer = stack.http.post("/v1/runs", body)
    if answer.status != 202:
        assert 400 <= answer.status < 500, answer.body
        answer.problem(answer.status, answer.json["code"])
