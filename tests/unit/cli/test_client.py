"""The HTTP client: what it sends, what it repeats, how it resumes."""

import asyncio

import pytest
from contract_server import KEY, RUN_ID, ContractServer, Reply, event, problem, run_document, sse
from pydantic import BaseModel

from tollway.client import ApiError, Client, ClientOptions, RunFailed, Unreachable
from tollway.domain.errors import ConfigError

RUN = f"/v1/runs/{RUN_ID}"
PATIENT = ClientOptions(retry_for_s=5, resume_for_s=5)
HASTY = ClientOptions(retry_for_s=0, resume_for_s=0)


def client_of(server: ContractServer, options: ClientOptions = PATIENT, tenant: str | None = None) -> Client:
    """A client with the server's key."""
    return Client(server.url, KEY, tenant, options=options)


class Ticket(BaseModel):
    """An input as an application has it."""

    text: str


async def test_submit_sends_the_contract_and_reads_the_run(server: ContractServer) -> None:
    """A submit carries agent, input and options, an idempotency key and the tenant; the answer is typed."""
    server.on("POST /v1/runs", Reply(202, run_document(new_field=1)))
    async with client_of(server, tenant="acme") as client:
        run = await client.submit("triage", Ticket(text="hi"), lane="batch", metadata={"a": "b"}, wait_s=2)
    (seen,) = server.asked("POST /v1/runs")
    assert seen.body == {"agent": "triage", "input": {"text": "hi"}, "lane": "batch", "metadata": {"a": "b"}}
    assert seen.headers["x-tollway-tenant"] == "acme"
    assert seen.headers["prefer"] == "wait=2"
    assert len(seen.headers["idempotency-key"]) == 32
    assert (run.id, run.state, run.usage.cost_nano, run.final) == (RUN_ID, "queued", 37500, False)
    assert run.document["new_field"] == 1
    assert run.created_at is not None
    assert run.created_at.tzinfo is not None


async def test_submit_is_repeated_under_one_key(server: ContractServer) -> None:
    """Refusals for now are tried again with the same idempotency key, so that a run is never doubled."""
    server.on(
        "POST /v1/runs",
        Reply(503, problem(503, "database_unavailable"), {"retry-after": "0"}),
        Reply(429, problem(429, "queue_full"), {"retry-after-ms": "5"}),
        Reply(202, b'{"id":"half', cut=True),
        Reply(202, run_document()),
    )
    async with client_of(server) as client:
        run = await client.submit("triage")
    keys = {seen.headers["idempotency-key"] for seen in server.asked("POST /v1/runs")}
    assert run.id == RUN_ID
    assert len(server.seen) == 4
    assert len(keys) == 1


async def test_a_final_refusal_is_not_repeated(server: ContractServer) -> None:
    """A 422 raises at once, with the document and its field errors."""
    errors = [{"path": "text", "message": "is missing"}]
    server.on("POST /v1/runs", Reply(422, problem(422, "invalid_input", detail="no", errors=errors)))
    async with client_of(server) as client:
        with pytest.raises(ApiError) as caught:
            await client.submit("triage", {})
    assert (caught.value.code, caught.value.status, caught.value.errors) == ("invalid_input", 422, errors)
    assert len(server.seen) == 1


async def test_a_longer_pause_than_the_patience_raises_at_once(server: ContractServer) -> None:
    """A Retry-After beyond `retry_for_s` is the caller's to wait for; the error says how long."""
    server.on("POST /v1/runs", Reply(429, problem(429, "rate_limited"), {"retry-after": "3600"}))
    async with client_of(server) as client:
        with pytest.raises(ApiError) as caught:
            await client.submit("triage", {})
    assert caught.value.retry_after_s == 3600
    assert len(server.seen) == 1


async def test_what_could_double_is_not_repeated(server: ContractServer) -> None:
    """A replay whose answer was lost may have been done: it is reported, not sent again."""
    server.on(f"POST {RUN}/replay", Reply(202, b"{", cut=True))
    async with client_of(server) as client:
        with pytest.raises(Unreachable):
            await client.replay(RUN_ID)
    assert len(server.seen) == 1


async def test_nobody_there_is_unreachable() -> None:
    """A refused connection raises Unreachable with address and cause."""
    async with Client("http://127.0.0.1:9", KEY, options=HASTY) as client:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9.*refused"):
            await client.get(RUN_ID)


async def test_an_answer_of_another_server_is_an_error(server: ContractServer) -> None:
    """HTML where JSON is due becomes ApiError `unexpected_answer`, with an excerpt."""
    server.on(f"GET {RUN}", Reply(200, b"<html>hello</html>"))
    async with client_of(server) as client:
        with pytest.raises(ApiError, match="hello") as caught:
            await client.get(RUN_ID)
    assert caught.value.code == "unexpected_answer"


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://"])
def test_a_bad_address_is_a_configuration_error(url: str) -> None:
    """An unusable TOLLWAY_URL is named before anything is sent."""
    with pytest.raises(ConfigError, match="TOLLWAY_URL"):
        Client(url, KEY)


def test_a_bad_key_is_a_configuration_error_and_stays_hidden() -> None:
    """A key that no header can carry is refused without being shown."""
    with pytest.raises(ConfigError, match="hidden"):
        Client("http://127.0.0.1:9", "tw_\nsecret")


async def test_events_resume_where_the_stream_was_cut(server: ContractServer) -> None:
    """Through a cut, a doubled event and an early end, each event comes once and in order, and the last one ends it."""
    server.on(
        f"GET {RUN}/events",
        Reply(200, sse(event(1, "accepted"), event(0, "token", text="He"), event(2, "claimed")), cut=True),
        Reply(503, problem(503, "draining")),
        Reply(200, sse(event(2, "claimed"), event(3, "progress", at=1))),
        Reply(200, sse(event(4, "succeeded"))),
    )
    async with client_of(server) as client:
        got = [event async for event in client.events(RUN_ID)]
    assert [(e.seq, e.type) for e in got] == [
        (1, "accepted"), (None, "token"), (2, "claimed"), (3, "progress"), (4, "succeeded"),
    ]  # fmt: skip
    asked = [seen.headers.get("last-event-id") for seen in server.asked(f"GET {RUN}/events")]
    assert asked == [None, "2", "2", "3"]
    assert got[1].data == {"text": "He"}


async def test_events_of_an_ended_run_end(server: ContractServer) -> None:
    """Asked for events beyond the final one, the stream ends instead of asking for ever."""
    server.on(f"GET {RUN}/events", Reply(200, b""))
    server.on(f"GET {RUN}", Reply(200, run_document("succeeded")))
    async with client_of(server) as client, asyncio.timeout(5):
        assert [event async for event in client.events(RUN_ID, after=9)] == []


async def test_events_of_an_unknown_run_raise(server: ContractServer) -> None:
    """A 404 is not a cut stream."""
    async with client_of(server) as client:
        with pytest.raises(ApiError, match="not found"):
            await anext(client.events(RUN_ID))


async def test_wait_and_result(server: ContractServer) -> None:
    """`wait` returns the ended run, `result` its output, or raises RunFailed with the run."""
    server.on(f"GET {RUN}/events", Reply(200, sse(event(1, "accepted"), event(2, "succeeded"))))
    server.on(f"GET {RUN}", Reply(200, run_document("succeeded", output={"ok": 1})))
    async with client_of(server) as client:
        assert (await client.wait(RUN_ID, 5)).succeeded
        assert await client.result(RUN_ID) == {"ok": 1}
        server.on(f"GET {RUN}", Reply(200, run_document("dead", error={"code": "boom", "message": "no"})))
        with pytest.raises(RunFailed, match="dead: boom: no"):
            await client.result(RUN_ID)


async def test_wait_gives_up_in_time(server: ContractServer) -> None:
    """`wait` raises TimeoutError after its time, though the run never ends."""
    server.on(f"GET {RUN}/events", Reply(200, sse(event(1, "accepted"))))
    server.on(f"GET {RUN}", Reply(200, run_document("running")))
    async with client_of(server) as client:
        with pytest.raises(TimeoutError):
            await client.wait(RUN_ID, 0.2)


async def test_list_follows_the_cursor(server: ContractServer) -> None:
    """`list` asks for the next page until there is none, its filters in every request."""
    server.on(
        "GET /v1/runs",
        Reply(200, {"items": [run_document()], "next": "abc"}),
        Reply(200, {"items": [run_document("dead")], "next": None}),
    )
    async with client_of(server) as client:
        states = [run.state async for run in client.list(page_size=1, lane="batch", metadata={"demo": "x y"})]
    assert states == ["queued", "dead"]
    assert [seen.query for seen in server.seen] == [
        "limit=1&lane=batch&metadata.demo=x+y",
        "limit=1&lane=batch&metadata.demo=x+y&cursor=abc",
    ]


async def test_submit_many_keeps_order_and_repeats_only_what_was_refused_for_now(server: ContractServer) -> None:
    """Results stand in the order of the runs; a 429 within the batch is sent again under its key, a 422 is not."""
    refused = {"status": 422, "error": problem(422, "unknown_agent")}
    server.on(
        "POST /v1/runs/batch",
        Reply(200, {"results": [{"status": 429, "error": problem(429, "queue_full")}, refused]}),
        Reply(200, {"results": [{"status": 202, "run": run_document()}]}),
    )
    async with client_of(server) as client:
        first, second = await client.submit_many([{"agent": "a", "input": 1}, {"agent": "b", "input": None}])
    assert not isinstance(first, ApiError)
    assert isinstance(second, ApiError)
    assert second.code == "unknown_agent"
    sent, again = server.asked("POST /v1/runs/batch")
    assert again.body["runs"] == sent.body["runs"][:1]
    assert sent.body["runs"][1]["input"] is None
    assert sent.body["runs"][0]["idempotency_key"] != sent.body["runs"][1]["idempotency_key"]


async def test_submit_many_splits_what_is_too_much_for_one_request(server: ContractServer) -> None:
    """2,500 runs go in three requests."""
    reply = [{"status": 202, "run": run_document()}]
    server.on("POST /v1/runs/batch", *(Reply(200, {"results": reply * n}) for n in (1000, 1000, 500)))
    async with client_of(server) as client:
        results = await client.submit_many({"agent": "a", "input": i} for i in range(2500))
    assert len(results) == 2500
    assert [len(seen.body["runs"]) for seen in server.seen] == [1000, 1000, 500]


@pytest.mark.parametrize("endless", [float("nan"), float("inf"), float("-inf")])
async def test_a_limit_that_is_no_number_is_not_sent(server: ContractServer, endless: float) -> None:
    """JSON would have null for it, which lifts a limit: budgets, quotas, a run's own budget are refused by name."""
    server.on("GET /v1/tenants/a/budgets", Reply(200, {"items": []}))
    async with client_of(server) as client:
        with pytest.raises(ValueError, match="hard_usd must be a finite number"):
            await client.put_budgets("a", [{"period": "day", "soft_usd": 1.0, "hard_usd": endless}])
        with pytest.raises(ValueError, match="hard_usd must be a finite number"):
            await client.revise("/v1/tenants/a/budgets", lambda _: {"budgets": [{"hard_usd": endless}]})
        with pytest.raises(ValueError, match="runs_per_s must be a finite number"):
            await client.put_tenant("a", runs_per_s=endless)
        with pytest.raises(ValueError, match="budget_usd must be a finite number"):
            await client.submit("a", budget_usd=endless)
        with pytest.raises(ValueError, match="budget_usd must be a finite number"):
            await client.submit_many([{"agent": "a", "budget_usd": endless}])
    assert [seen.method for seen in server.seen] == ["GET"]


async def test_tenants_and_keys(server: ContractServer) -> None:
    """Tenants are PUT, keys POSTed and DELETEd; an empty answer is no error."""
    server.on("PUT /v1/tenants/acme", Reply(201, {"id": "acme", "weight": 2}))
    server.on("POST /v1/tenants/acme/keys", Reply(201, {"id": "k1", "key": "tw_x"}))
    server.on("DELETE /v1/tenants/acme/keys/k1", Reply(204))
    async with client_of(server) as client:
        assert (await client.put_tenant("acme", weight=2, max_queued=None))["weight"] == 2
        assert (await client.create_key("acme", "app", ["submit"]))["key"] == "tw_x"
        await client.revoke_key("acme", "k1")
    assert server.seen[0].body == {"weight": 2, "max_queued": None}
    assert server.seen[1].body == {"name": "app", "scopes": ["submit"]}
