"""Deliveries end to end: a real record, a real receiver, one or more deliverers."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from standardwebhooks import Webhook

from tollway.domain.alerts import Alert, AlertKind
from tollway.domain.clock import AnchoredClock
from tollway.outbound.webhooks import CHANNEL, DeliverOptions, WebhookDeliverer
from tollway.record.alerts import AlertFilter, AlertHook, AlertRecord, list_alerts
from tollway.record.run_document import rfc3339, run_json
from tollway.record.webhooks import Settlement, WebhookRecord
from tollway.telemetry.metrics import Metrics

from .conftest import Hooks, Receiver, answer, eventually

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OPTIONS = DeliverOptions(poll_s=0.05, secrets={"HOOK": SECRET}, stop_grace_s=0.05)


class QuietNews:
    """News within the test's process."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Callable[[str], None]]] = {}

    def publish(self, channel: str, message: str) -> None:
        for callback in self.callbacks.get(channel, ()):
            callback(message)

    def subscribe(self, channel: str, callback: Callable[[str], None]) -> Callable[[], None]:
        self.callbacks.setdefault(channel, []).append(callback)
        return lambda: self.callbacks[channel].remove(callback)


@asynccontextmanager
async def delivering(
    hooks: Hooks, options: DeliverOptions = OPTIONS, news: QuietNews | None = None
) -> AsyncIterator[Metrics]:
    metrics = Metrics()
    record = WebhookRecord(hooks.database)
    deliverer = WebhookDeliverer(record, news or QuietNews(), AnchoredClock(), metrics, options)
    await deliverer.start()
    await deliverer.start()
    try:
        yield metrics
    finally:
        await deliverer.stop()
        await deliverer.stop()


async def test_an_ended_run_is_told_once_and_signed(hooks: Hooks, receiver: Receiver) -> None:
    """One request with Standard Webhooks headers holds the run as its document shows it; then nothing is left due."""
    run_id = await hooks.ended_run(receiver.url, "HOOK", output={"label": "card"})
    async with delivering(hooks) as metrics:
        await eventually(lambda: metrics.webhooks.value("delivered"))
        await eventually(lambda: _none_left(hooks))
    (request,) = receiver.received
    said = Webhook(SECRET).verify(request.body, request.headers)
    (row,) = await hooks.database.rows("read_runs", [run_id], run_id, run_id)
    assert (said["type"], said["data"]) == ("run.succeeded", json.loads(run_json(row)))
    assert request.headers["webhook-id"] == f"run_{run_id}"
    assert request.headers["content-type"] == "application/json"
    assert request.path == "/hook"


async def test_an_alert_is_told_to_each_of_its_receivers(hooks: Hooks, receiver: Receiver) -> None:
    """Operator and tenant get the same signed body under one stable id, also when it took two attempts."""
    receiver.answers = [answer(500), answer(204)]
    await hooks.admin.execute("update tenant set alert_url = $1", receiver.url)
    record = AlertRecord(hooks.database, hooks.ids, AlertHook(receiver.url, "HOOK", (AlertKind.SPEND_SPIKE,)))
    async with hooks.database.connection() as connection:
        told = Alert(AlertKind.SPEND_SPIKE, "default", "default", "spend_spike/default", {"last_hour_usd": 4.5})
        assert await record.tell(connection, [told]) == {told.key}
    (alert,) = await list_alerts(hooks.database, AlertFilter(), None, 10)
    async with delivering(hooks) as metrics:
        await eventually(lambda: metrics.webhooks.value("retried"))
        await hooks.admin.execute("update webhook_delivery set due_at = now() where last_error is not null")
        await eventually(lambda: _none_left(hooks))
    assert len(receiver.received) == 3
    assert {request.headers["webhook-id"] for request in receiver.received} == {f"alert_{alert['id']}"}
    assert len({request.body for request in receiver.received}) == 1
    signed = [request for request in receiver.received if "webhook-signature" in request.headers]
    said = Webhook(SECRET).verify(signed[0].body, signed[0].headers)
    at = rfc3339(alert["at"])
    assert said == {
        "type": "alert.spend_spike",
        "timestamp": at,
        "data": {
            "id": str(alert["id"]),
            "kind": "spend_spike",
            "tenant": "default",
            "subject": "default",
            "at": at,
            "data": {"last_hour_usd": 4.5},
        },
    }


async def test_runs_and_alerts_are_delivered_side_by_side(hooks: Hooks, receiver: Receiver) -> None:
    """One claim may hold deliveries of both; an alert that is forgotten takes what is due of it along."""
    record = AlertRecord(hooks.database, hooks.ids, AlertHook(receiver.url, "", tuple(AlertKind)))
    async with hooks.database.connection() as connection:
        await record.tell(connection, [Alert(AlertKind.FALLBACK_LASTING, None, tier, tier) for tier in ("a", "b")])
    run_id = await hooks.ended_run(receiver.url)
    await hooks.admin.execute("delete from alert where subject = 'b'")
    async with delivering(hooks):
        await eventually(lambda: _none_left(hooks))
    types = sorted(json.loads(request.body)["type"] for request in receiver.received)
    assert types == ["alert.fallback_lasting", "run.succeeded"]
    assert f"run_{run_id}" in {request.headers["webhook-id"] for request in receiver.received}


async def test_a_failure_is_retried_later_with_the_same_id(hooks: Hooks, receiver: Receiver) -> None:
    """After a 500 the delivery rests for about 5 s with its error on record; the next attempt repeats id and body."""
    receiver.answers = [answer(500, body=b"x" * 100_000), answer(200, body=b"thanks")]
    run_id = await hooks.ended_run(receiver.url, "HOOK")
    async with delivering(hooks) as metrics:
        row = await eventually(lambda: _failed(hooks, run_id))
        assert (row["attempts"], row["last_error"]) == (1, "the receiver answered 500")
        rest_s = await hooks.admin.fetchval("select extract(epoch from due_at - now()) from webhook_delivery")
        assert 2 < rest_s <= 6
        await hooks.make_due(run_id)
        await eventually(lambda: _none_left(hooks))
        assert (metrics.webhooks.value("retried"), metrics.webhooks.value("delivered")) == (1, 1)
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


async def test_gone_is_given_up_at_once(hooks: Hooks, receiver: Receiver) -> None:
    """A 410 ends the attempts: the row stays for inspection, is never due again, and is forgotten after its time."""
    receiver.answers = [answer(410)]
    run_id = await hooks.ended_run(receiver.url, "HOOK")
    async with delivering(hooks):
        row = await eventually(lambda: _failed(hooks, run_id))
    assert row["gave_up_at"] is not None
    record = WebhookRecord(hooks.database)
    await hooks.make_due(run_id)
    assert await record.claim(10, 60, 10, {}) == []
    assert await record.next_due_s([]) is None
    await record.forget_old(30)
    assert await hooks.left() == 1
    await hooks.admin.execute("update webhook_delivery set gave_up_at = now() - interval '31 days'")
    await record.forget_old(0)
    assert await hooks.left() == 1
    await record.forget_old(30)
    assert await hooks.left() == 0


async def test_the_last_failure_is_given_up(hooks: Hooks, receiver: Receiver) -> None:
    """When the ladder of rests is used up, a failed delivery is kept with its last error and not tried again."""
    receiver.answers = [answer(503)]
    run_id = await hooks.ended_run(receiver.url, "HOOK")
    await hooks.admin.execute("update webhook_delivery set attempts = 8")
    async with delivering(hooks):
        row = await eventually(lambda: _failed(hooks, run_id))
    assert (row["attempts"], row["gave_up_at"] is not None) == (9, True)


async def test_redirects_are_failures_and_retry_after_is_kept(hooks: Hooks, receiver: Receiver) -> None:
    """A 3xx is not followed; the rest it asks for is longer than the ladder's and holds."""
    receiver.answers = [answer(307, f"location: {receiver.url}2", "retry-after: 900")]
    run_id = await hooks.ended_run(receiver.url, "HOOK")
    async with delivering(hooks):
        row = await eventually(lambda: _failed(hooks, run_id))
    assert "307" in row["last_error"]
    assert len(receiver.received) == 1
    rest_s = await hooks.admin.fetchval("select extract(epoch from due_at - now()) from webhook_delivery")
    assert 800 < rest_s <= 900


async def test_what_was_sent_but_not_settled_is_sent_again(hooks: Hooks, receiver: Receiver) -> None:
    """A deliverer cut off between its post and its settlement leaves a lease; the next delivers under the same id."""
    receiver.hold = asyncio.Event()
    run_id = await hooks.ended_run(receiver.url, "HOOK")
    async with delivering(hooks, replace(OPTIONS, lease_s=0.5)):
        await eventually(lambda: receiver.received)
    row = await hooks.delivery(run_id)
    assert row is not None
    assert (row["attempts"], row["last_error"]) == (1, None)
    receiver.hold.set()
    receiver.hold = None
    async with delivering(hooks):
        await eventually(lambda: _none_left(hooks))
    assert [request.headers["webhook-id"] for request in receiver.received] == [f"run_{run_id}"] * 2


async def test_a_settlement_after_the_lease_is_ignored(hooks: Hooks, receiver: Receiver) -> None:
    """Who held a delivery before somebody else claimed it can neither delete nor reschedule it, nor settle it twice."""
    run_id = await hooks.ended_run(receiver.url)
    record = WebhookRecord(hooks.database)
    (first,) = await record.claim(10, 60, 10, {})
    assert await record.claim(10, 60, 10, {}) == []
    await hooks.make_due(run_id)
    (second,) = await record.claim(10, 60, 10, {})
    assert not await record.settle(Settlement(run_id, first.attempts))
    assert not await record.settle(Settlement(run_id, first.attempts, "late", None))
    assert await record.settle(Settlement(run_id, second.attempts))
    assert not await record.settle(Settlement(run_id, second.attempts))
    assert await hooks.left() == 0


async def test_a_slow_receiver_times_out(hooks: Hooks, receiver: Receiver) -> None:
    """A receiver that does not answer in time is a failure to be retried, and its request is ended."""
    receiver.hold = asyncio.Event()
    run_id = await hooks.ended_run(receiver.url, "HOOK")
    async with delivering(hooks, replace(OPTIONS, timeout_s=0.2)):
        row = await eventually(lambda: _failed(hooks, run_id))
    assert (row["last_error"], row["gave_up_at"]) == ("no answer within 0.2 s", None)


@pytest.mark.parametrize(
    ("url", "error", "gave_up"),
    [
        ("http://127.0.0.1:1/hook", "the connection failed", False),
        ("http://no-such-host.invalid/", "the connection failed", False),
        ("http://[zz]/hook", "the URL cannot be used", True),
    ],
)
async def test_an_unreachable_receiver_is_a_failure(hooks: Hooks, url: str, error: str, gave_up: bool) -> None:
    """Refused connections and unknown hosts are retried; a URL nobody can post to is given up."""
    run_id = await hooks.ended_run(url, "HOOK")
    async with delivering(hooks):
        row = await eventually(lambda: _failed(hooks, run_id))
    assert row["last_error"].startswith(error)
    assert (row["gave_up_at"] is not None) == gave_up


async def test_a_missing_secret_sends_nothing(hooks: Hooks, receiver: Receiver) -> None:
    """A run whose secret's variable is not set is not sent unsigned; the error names it, and it is retried."""
    run_id = await hooks.ended_run(receiver.url, "NOT_SET")
    async with delivering(hooks):
        row = await eventually(lambda: _failed(hooks, run_id))
    assert "NOT_SET" in row["last_error"]
    assert row["gave_up_at"] is None
    assert receiver.received == []


async def test_two_deliverers_do_not_double(hooks: Hooks, receiver: Receiver) -> None:
    """Of 60 deliveries under two deliverers each arrives exactly once, and no host holds more than its places."""
    wanted = {f"run_{await hooks.ended_run(receiver.url, 'HOOK')}" for _ in range(60)}
    options = replace(OPTIONS, in_flight_per_host_max=3)
    async with delivering(hooks, options), delivering(hooks, options):
        await eventually(lambda: _none_left(hooks))
    ids = [request.headers["webhook-id"] for request in receiver.received]
    assert len(ids) == 60
    assert set(ids) == wanted
    assert receiver.open_most <= 6


async def test_a_slow_host_does_not_hold_up_others(hooks: Hooks, receiver: Receiver) -> None:
    """While one host keeps all its places busy with more due, another host's delivery goes out."""
    receiver.hold = asyncio.Event()
    for _ in range(30):
        await hooks.ended_run(receiver.url, "HOOK")
    other = Receiver(answers=[answer(204)])
    server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
    other.port = server.sockets[0].getsockname()[1]
    await hooks.ended_run(other.url, "HOOK")
    async with delivering(hooks, replace(OPTIONS, in_flight_per_host_max=4)):
        await eventually(lambda: other.received)
        assert receiver.open_most <= 4
        receiver.hold.set()
        receiver.hold = None
        await eventually(lambda: _none_left(hooks))
    server.close()
    await server.wait_closed()
    assert len(receiver.received) == 30


async def test_news_wakes_an_idle_deliverer(hooks: Hooks, receiver: Receiver) -> None:
    """A deliverer that would rest for a minute begins at once when it hears of a webhook."""
    news = QuietNews()
    async with delivering(hooks, replace(OPTIONS, poll_s=60.0), news):
        await hooks.ended_run(receiver.url, "HOOK")
        await eventually(lambda: news.publish(CHANNEL, "") or receiver.received)
        await eventually(lambda: _none_left(hooks))
        await hooks.ended_run(receiver.url, "HOOK")
        await eventually(lambda: news.publish(CHANNEL, "") or len(receiver.received) == 2)


async def test_a_run_whose_record_is_gone_is_given_up(hooks: Hooks, receiver: Receiver) -> None:
    """When retention dropped the run, nothing is sent and the delivery says why."""
    run_id = await hooks.ended_run(receiver.url, "HOOK")
    await hooks.admin.execute("delete from run")
    async with delivering(hooks):
        row = await eventually(lambda: _failed(hooks, run_id))
    assert (row["last_error"], row["gave_up_at"] is not None) == ("the record of the run is gone", True)
    assert receiver.received == []


async def _none_left(hooks: Hooks) -> bool:
    return await hooks.left() == 0


async def _failed(hooks: Hooks, run_id: Any) -> Any:
    row = await hooks.delivery(run_id)
    return row if row is not None and row["last_error"] is not None else None
