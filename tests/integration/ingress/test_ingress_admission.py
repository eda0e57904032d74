"""Admission over the real record: quotas of tenants, the depth of lanes, starts that would be too late."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest

from asgi_client import Answer, AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness, LocalNews, hold, make_agent
from record_kit import accept_all, claim, new_claims, new_run
from runtime_kit import until
from tollway.ingress import forecasts as forecasts_of_lanes
from tollway.ingress.forecasts import Entry
from tollway.ingress.lane_forecasts import SLICE
from tollway.ingress.services import ApiOptions, LaneLimits
from tollway.record.agents import publish_agents
from tollway.record.database import Database
from tollway.record.keys import ensure_admin_key
from tollway.record.processes import beat_process
from tollway.record.quotas import TokenBook

SUBMIT = {"agent": "echo", "input": 1}
LIMITS = {"batch": LaneLimits(max_queued=5), "standard": LaneLimits(max_wait_s=20.0)}


@pytest.fixture
async def limited(database: Database) -> AsyncIterator[ApiHarness]:
    """An API whose lane `batch` takes 5 runs, and whose lane `standard` lets nobody wait longer than 20 s."""
    await ensure_admin_key(database, ADMIN_KEY)
    await publish_agents(database, [make_agent("echo", {})])
    harness = ApiHarness(database, LocalNews(), ApiOptions(lane_limits=LIMITS), heartbeat_s=0.05)
    await harness.api.start()
    yield harness
    await harness.api.stop()


def epoch(moment: str) -> float:
    """Epoch seconds of a moment as the API writes it."""
    return datetime.fromisoformat(moment).timestamp()


async def look(database: Database, question: str) -> Any:
    """One value of the record."""
    async with database.connection() as connection:
        return await connection.fetchval(question)


async def client_of(admin: AsgiClient, tenant: str, **settings: Any) -> AsgiClient:
    """A tenant with these settings, and its client."""
    assert (await admin.put(f"/v1/tenants/{tenant}", settings)).status == 201
    made = await admin.post(f"/v1/tenants/{tenant}/keys", {"name": "k", "scopes": ["submit", "read", "cancel"]})
    return AsgiClient(admin.app, made.json["key"])


def refused(answer: Answer, code: str, policy: str) -> float:
    """Check a 429 with all its headers; returns the seconds after which to come again."""
    assert (answer.status, answer.code) == (429, code)
    after_ms = int(answer.headers["retry-after-ms"])
    assert 0 < after_ms <= int(answer.headers["retry-after"]) * 1000 < after_ms + 1000
    assert answer.headers["ratelimit-policy"].startswith(f'"{policy}";q=')
    assert answer.headers["ratelimit"].startswith(f'"{policy}";r=0;t=')
    return after_ms / 1000


async def until_accepted(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask again and again until it is taken, half a minute at most."""
    async with asyncio.timeout(30):
        while (answer := await ask()).status == 429:
            await asyncio.sleep(0.02)
    return answer


async def test_a_rate_of_runs_is_kept_and_opens_when_it_says(admin: AsgiClient, harness: ApiHarness) -> None:
    """A burst of one second's worth passes, the next is 429 with when to come again, and is taken then."""
    client = await client_of(admin, "acme", runs_per_s=5)
    began = time.monotonic()
    answers = [await client.post("/v1/runs", SUBMIT) for _ in range(60)]
    took_s = time.monotonic() - began
    taken = [answer for answer in answers if answer.status == 202]
    assert 5 <= len(taken) <= 5 + 5 * took_s + 1
    last = await client.post("/v1/runs", SUBMIT)
    while last.status == 202:
        last = await client.post("/v1/runs", SUBMIT)
    after_s = refused(last, "rate_limited", "runs_per_s")
    assert after_s <= 0.2
    refused_at = time.monotonic()
    assert (await until_accepted(lambda: client.post("/v1/runs", SUBMIT))).status == 202
    assert time.monotonic() - refused_at >= after_s - 0.05
    assert (await admin.post("/v1/runs", SUBMIT)).status == 202


async def test_a_refused_request_leaves_nothing(admin: AsgiClient, database: Database) -> None:
    """P11: whoever is refused finds no run of his, and other tenants are not concerned."""
    client = await client_of(admin, "acme", runs_per_s=0.01)
    assert [(await client.post("/v1/runs", SUBMIT)).status for _ in range(3)] == [202, 429, 429]
    assert len((await client.get("/v1/runs")).json["items"]) == 1


async def test_processes_share_a_rate(limited: ApiHarness, database: Database) -> None:
    """Two API processes that know of each other let no more through together than the rate and a burst of each."""
    other = ApiHarness(database, LocalNews(), heartbeat_s=0.05)
    await other.api.start()
    try:
        client = await client_of(AsgiClient(limited.api, ADMIN_KEY), "acme", runs_per_s=10)
        there = AsgiClient(other.api, client.headers["authorization"].removeprefix("Bearer "))
        parts = [api.api.context.admission.quotas for api in (limited, other)]
        taken, began = 0, 0.0
        async with asyncio.timeout(30):
            while not began or time.monotonic() - began < 2.0:
                for one in (client, there):
                    taken += (await one.post("/v1/runs", SUBMIT)).status == 202
                if not began and all(part._part("acme", 10.0) < 6.0 for part in parts):
                    taken, began = 0, time.monotonic()
        assert 10 <= taken <= 10 * (time.monotonic() - began) + 2 * 6 + 2
    finally:
        await other.api.stop()


async def test_a_bound_of_queued_runs_is_exact(admin: AsgiClient, database: Database) -> None:
    """Exactly `max_queued` runs are taken, delayed ones too, one by one, at once or in a batch; a claim makes room."""
    client = await client_of(admin, "acme", max_queued=10)
    for extra in ({}, {"delay_s": 60}, {}):
        assert (await client.post("/v1/runs", SUBMIT | extra)).status == 202
    answers = await asyncio.gather(*(client.post("/v1/runs", SUBMIT) for _ in range(5)))
    assert [answer.status for answer in answers] == [202] * 5
    batch = await client.post("/v1/runs/batch", {"runs": [SUBMIT] * 5})
    assert [item["status"] for item in batch.json["results"]] == [202, 202, 429, 429, 429]
    assert batch.json["results"][2]["error"]["code"] == "queue_full"
    refused(await client.post("/v1/runs", SUBMIT), "queue_full", "max_queued")
    claims, _ = await new_claims(database)
    assert len((await claim(claims, 3, agent="echo")).claims) == 3
    taken = 0
    async with asyncio.timeout(20):
        while taken < 3:
            taken += (await client.post("/v1/runs", SUBMIT)).status == 202
            await asyncio.sleep(0.01)
    assert (await client.post("/v1/runs", SUBMIT)).code == "queue_full"
    assert await look(database, "select count(*) from queue where state = 0") == 10


async def test_a_bound_holds_for_what_was_there_before(harness: ApiHarness, admin: AsgiClient) -> None:
    """A bound set below what is queued already refuses at once, and a cancelled run makes room."""
    client = await client_of(admin, "acme")
    runs = [(await client.post("/v1/runs", SUBMIT)).json["id"] for _ in range(4)]
    assert (await admin.put("/v1/tenants/acme", {"max_queued": 4})).status == 200
    refused(await client.post("/v1/runs", SUBMIT), "queue_full", "max_queued")
    assert (await client.post(f"/v1/runs/{runs[0]}/cancel", None)).status in (200, 202)
    assert (await until_accepted(lambda: client.post("/v1/runs", SUBMIT))).status == 202


async def test_a_repeated_key_takes_no_room(admin: AsgiClient) -> None:
    """An idempotent repeat is not counted as a run more."""
    client = await client_of(admin, "acme", max_queued=3)
    for _ in range(2):
        assert (await client.post("/v1/runs", SUBMIT, idempotency_key="k")).status == 202
    answers = [await client.post("/v1/runs", SUBMIT) for _ in range(3)]
    assert [answer.status for answer in answers] == [202, 202, 429]


async def test_nothing_may_be_queued(admin: AsgiClient) -> None:
    """`max_queued` 0 refuses every submit and says what to do."""
    client = await client_of(admin, "acme", max_queued=0)
    answer = await client.post("/v1/runs", SUBMIT)
    refused(answer, "queue_full", "max_queued")
    assert "max_queued = 0" in answer.json["detail"]


async def test_tokens_used_elsewhere_close_the_door(admin: AsgiClient, harness: ApiHarness, database: Database) -> None:
    """Tokens that a worker counted are known here within moments: 429 until the minute's end has passed them, 403 for
    the rest of the day."""
    minute = await client_of(admin, "minute", tokens_per_min=100)
    day = await client_of(admin, "day", tokens_per_day=100)
    free = await client_of(admin, "free")
    for client in (minute, day, free):
        assert (await client.post("/v1/runs", SUBMIT)).status == 202
    worker = TokenBook(database, harness.news, database.clock)
    worker.start()
    for tenant in ("minute", "day", "free"):
        worker.spent(tenant, 60)
        worker.spent(tenant, 40)
    await until(lambda: harness.services.tokens.day("day") == 100)
    await worker.stop()
    after_s = refused(await minute.post("/v1/runs", SUBMIT), "rate_limited", "tokens_per_min")
    assert 55 < after_s <= 65
    answer = await day.post("/v1/runs", SUBMIT)
    assert (answer.status, answer.code) == (403, "quota_exhausted")
    assert answer.json["opens_at"].endswith("T00:00:00.000Z")
    assert "retry-after" not in answer.headers
    assert (await free.post("/v1/runs", SUBMIT)).status == 202
    assert await look(database, "select count(distinct tenant) from quota_use") == 2
    assert (await admin.put("/v1/tenants/day", {"tokens_per_day": 101})).status == 200
    assert (await day.post("/v1/runs", SUBMIT)).status == 202


async def test_counts_of_several_processes_add_up(harness: ApiHarness, admin: AsgiClient, database: Database) -> None:
    """What many processes count at once is the sum, whoever saves first, and a stop saves the rest."""
    await client_of(admin, "acme", tokens_per_day=10**9)
    books = [TokenBook(database, harness.news, database.clock) for _ in range(4)]
    for book in books:
        book.start()
    for round_ in range(50):
        for book in books:
            book.spent("acme", round_ + 1)
        await asyncio.sleep(0)
    await asyncio.gather(*(book.stop() for book in books))
    assert await look(database, "select tokens from quota_use where span = 'day'") == 4 * 50 * 51 // 2
    assert await look(database, "select sum(tokens)::bigint from quota_use where span = 'slice'") == 4 * 50 * 51 // 2
    await until(lambda: harness.services.tokens.day("acme") == 4 * 50 * 51 // 2)


async def test_a_full_lane_is_named(limited: ApiHarness) -> None:
    """A lane with as many runs as it takes refuses with its name; the other lanes go on."""
    client = AsgiClient(limited.api, ADMIN_KEY)
    await client.post("/v1/runs", SUBMIT | {"lane": "batch"})
    await until(lambda: limited.api.context.admission.forecasts.queued("batch") is not None)
    answers = [await client.post("/v1/runs", SUBMIT | {"lane": "batch"}) for _ in range(8)]
    assert [answer.status for answer in answers] == [202] * 4 + [429] * 4
    refused(answers[-1], "queue_full", "lane_batch_max_queued")
    assert "Lane batch" in answers[-1].json["detail"]
    assert (await client.post("/v1/runs", SUBMIT)).status == 202


@asynccontextmanager
async def slow_worker(database: Database, slots: int) -> AsyncIterator[None]:
    """A worker that holds a run in every slot, whose runs take ten seconds each, as its beats tell."""
    claims, worker = await new_claims(database)
    assert len((await claim(claims, slots, agent="echo")).claims) == slots
    facts = {
        "claiming": True,
        "slots": slots,
        "running": slots,
        "agents": ["echo"],
        "lanes": ["standard"],
        "waits": {"standard": 0.5},
    }

    async def beat() -> None:
        began = time.monotonic()
        while True:
            ended = int((time.monotonic() - began) * slots / 10)
            served = {"standard": {"echo": [slots + ended, ended, ended * 10.0, slots, 0.0]}}
            await beat_process(database, worker, 0, facts | {"served": served})
            await asyncio.sleep(0.1)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


@pytest.mark.parametrize("at_once", [500, 0])
async def test_what_would_start_too_late_is_refused(
    limited: ApiHarness, database: Database, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """With a slot's worth of service every second, whoever would wait beyond `deadline_s`, `ttl_s` or the lane's
    `max_wait_s` is refused and told so; delayed runs are judged by when they are due; others get their forecast.
    So it is whether a count is taken over at once or in slices."""
    monkeypatch.setattr(forecasts_of_lanes, "AT_ONCE_LINES", at_once)
    client = AsgiClient(limited.api, ADMIN_KEY)
    await accept_all(database, [new_run(agent="echo") for _ in range(25)])
    async with slow_worker(database, 10):
        forecasts = limited.api.context.admission.forecasts
        service = forecasts.service
        await until(lambda: service.rates.lane("standard").seconds == 10)
        await client.post("/v1/runs", SUBMIT)
        await until(lambda: forecasts.queued("standard") is not None)
        answer = await client.post("/v1/runs", SUBMIT | {"deadline_s": 5})
        refused(answer, "overloaded", "deadline_s")
        assert "past its deadline_s" in answer.json["detail"]
        refused(await client.post("/v1/runs", SUBMIT | {"ttl_s": 5}), "overloaded", "ttl_s")
        answer = await client.post("/v1/runs", SUBMIT)
        assert answer.status == 202
        wait_s = epoch(answer.json["predicted_start_at"]) - epoch(answer.json["created_at"])
        assert 10 < wait_s < 20
        answers = [await client.post("/v1/runs", SUBMIT) for _ in range(10)]
        refused(answers[-1], "overloaded", "max_wait_s")
        assert "max_wait_s of lane standard" in answers[-1].json["detail"]
        assert (await client.post("/v1/runs", SUBMIT | {"delay_s": 30})).status == 202
        assert (await client.post("/v1/runs", SUBMIT | {"priority_s": 3600})).status == 202
        newcomer = await client_of(client, "newcomer")
        assert (await newcomer.post("/v1/runs", SUBMIT | {"deadline_s": 5})).status == 202


async def test_many_lines_are_taken_over_in_slices(limited: ApiHarness, database: Database) -> None:
    """A count of thousands of lines is taken over with others having their turn in between, a few hundred lines each;
    the first question is answered meanwhile, as one that nobody can be sure of."""
    async with database.connection() as connection:
        await connection.execute("insert into tenant (id) select 't' || i from generate_series(1, 6000) i")
        await connection.execute(
            "insert into queue (run_id, lane, class, tenant, place, est_nano)"
            " select gen_random_uuid(), 'standard', 'echo', 't' || i, i, 1000 from generate_series(1, 6000) i"
        )
    forecasts, board = limited.api.context.admission.forecasts, limited.api.context.board
    backlog = await board.backlog.fresh()
    assert len(backlog.lines) == backlog.of().runnable == backlog.of("standard").runnable == 6000
    assert backlog.of(tenant="t7").runnable == backlog.of("standard", "t7").runnable == 1
    assert forecasts.queued("standard") is None
    assert not forecasts.start(Entry("t7", "echo", "standard", time.time())).sure
    await until(lambda: forecasts.queued("standard") == 6000)
    assert sum(1 for _ in forecasts._take(backlog)) >= 6000 / SLICE


async def test_nobody_is_refused_for_what_nobody_knows(limited: ApiHarness, database: Database) -> None:
    """Without news of any worker a backlog refuses nobody, whatever the deadline."""
    await accept_all(database, [new_run(agent="echo") for _ in range(200)])
    client = AsgiClient(limited.api, ADMIN_KEY)
    await client.post("/v1/runs", SUBMIT)
    await until(lambda: (limited.api.context.admission.forecasts.queued("standard") or 0) > 200)
    assert (await client.post("/v1/runs", SUBMIT | {"deadline_s": 0.5})).status == 202


async def test_a_shared_rate_is_told_in_the_beats(harness: ApiHarness, admin: AsgiClient, database: Database) -> None:
    """An API process' row says how often tenants with a rate asked."""
    client = await client_of(admin, "acme", runs_per_s=100)
    for _ in range(20):
        await client.post("/v1/runs", SUBMIT)
    async with asyncio.timeout(10):
        while True:
            harness.sync._wake.set()
            told = json.loads(await look(database, "select facts from process"))
            if told["asked"].get("acme", 0.0) > 1:
                return
            await asyncio.sleep(0.02)


async def test_a_tenant_sees_what_it_uses(admin: AsgiClient, harness: ApiHarness, database: Database) -> None:
    """Queued, running and tokens are those of now, limits those that are set; another tenant's are not to be had."""
    client = await client_of(admin, "acme", max_queued=10, tokens_per_day=1000)
    other = await client_of(admin, "other")
    runs = [(await client.post("/v1/runs", SUBMIT | extra)).json["id"] for extra in ({}, {"delay_s": 60}, {})]
    await hold(harness, runs[0])
    harness.services.tokens.spent("acme", 70)
    use = await client.get("/v1/tenants/acme/use")
    shown = {"tenant": "acme", "queued": 2, "running": 1, "tokens_min": 70, "tokens_day": 70}
    assert (use.status, use.json) == (200, shown | {"limits": {"max_queued": 10, "tokens_per_day": 1000}})
    assert (await admin.get("/v1/tenants/acme/use")).json == use.json
    nothing = {"tenant": "other", "queued": 0, "running": 0, "tokens_min": None, "tokens_day": None, "limits": {}}
    assert (await other.get("/v1/tenants/other/use")).json == nothing
    for tenant in ("acme", "nobody"):
        answer = await other.get(f"/v1/tenants/{tenant}/use")
        assert (answer.status, answer.code) == (404, "not_found")
    assert (await admin.get("/v1/tenants/acme/use?x=1")).status == 422
