"""Delivers webhooks of ended runs and of alerts: due rows are claimed under a lease, signed, posted, and settled.

At least once, with the same `webhook-id` at every attempt; any number of deliverers share the work. A deliverer that
dies leaves its leases to run out. Idle, it asks the record once in about `poll_s` unless news on the channel
`webhook` wakes it.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.news import News
from tollway.outbound._payload import alert_payload, webhook_payload
from tollway.outbound._post import Answer, Poster
from tollway.outbound._retries import asked_delay_s, retry_delay_s
from tollway.outbound._sign import SecretUnusable, signed_headers, signing_secret
from tollway.record.webhooks import Delivery, Settlement, WebhookRecord
from tollway.telemetry.logs import get_logger
from tollway.telemetry.metrics import Metrics

log = get_logger(__name__)

CHANNEL = "webhook"
CLAIM_MAX = 10
FORGET_EVERY_S = 3600.0
REST_S_MIN = 0.05


@dataclass(frozen=True, slots=True)
class DeliverOptions:
    """Bounds of deliveries; seconds and counts. `lease_s` must be well beyond `timeout_s`.

    `keep_days` is how long a delivery given up is kept (0: for ever); `secrets` is where `secret_env` is looked up.
    """

    in_flight_max: int = 50
    in_flight_per_host_max: int = 10
    connect_timeout_s: float = 5.0
    timeout_s: float = 15.0
    lease_s: float = 60.0
    poll_s: float = 4.5
    stop_grace_s: float = 5.0
    keep_days: int = 0
    secrets: Mapping[str, str] = field(default_factory=lambda: os.environ)


class WebhookDeliverer:
    """Delivers until stopped."""

    def __init__(
        self, record: WebhookRecord, news: News, clock: Clock, metrics: Metrics, options: DeliverOptions | None = None
    ) -> None:
        self._record = record
        self._news = news
        self._clock = clock
        self._metrics = metrics
        self._options = options or DeliverOptions()
        self._poster = Poster(self._options.in_flight_max, self._options.connect_timeout_s, self._options.timeout_s)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._hosts: Counter[str] = Counter()
        self._wake = asyncio.Event()
        self._short = False
        self._forget_at = 0.0
        self._loop_task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    async def start(self) -> None:
        """Begin; a second start is nothing."""
        if self._loop_task is not None:
            return
        await self._poster.start()
        self._unsubscribe = self._news.subscribe(CHANNEL, lambda _: self._wake.set())
        self._loop_task = asyncio.get_running_loop().create_task(self._deliver_all(), name="webhooks")

    async def stop(self) -> None:
        """Claim no more, give posts under way `stop_grace_s`, and stop; a second stop is nothing.

        What was cut off is delivered again when its lease is over.
        """
        task, self._loop_task = self._loop_task, None
        if task is None:
            return
        if self._unsubscribe is not None:
            self._unsubscribe()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=self._options.stop_grace_s)
        for posting in self._in_flight:
            posting.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        await self._record.drain()
        await self._poster.stop()

    async def _deliver_all(self) -> None:
        while True:
            rest_s = self._options.poll_s * random.uniform(0.9, 1.1)
            self._wake.clear()
            try:
                rest_s = min(rest_s, await self._round())
            except DatabaseUnavailable as error:
                log.warning("webhooks.unreachable", error=str(error))
            except Exception as error:
                log.failure("webhooks.broken", error)
            with suppress(TimeoutError):  # not wait_for: before Python 3.12 it may swallow the cancellation of stop()
                async with asyncio.timeout(max(REST_S_MIN, rest_s)):
                    await self._wake.wait()

    async def _round(self) -> float:
        """Begin what is due and has a place; returns the seconds until there may be more."""
        options = self._options
        if self._clock.monotonic() >= self._forget_at:
            await self._record.forget_old(options.keep_days)
            self._forget_at = self._clock.monotonic() + FORGET_EVERY_S
        self._short = False
        while (free := options.in_flight_max - len(self._in_flight)) > 0:
            full = [host for host, posts in self._hosts.items() if posts >= options.in_flight_per_host_max]
            self._short = bool(full)  # the next post to end makes a place that may be wanted
            due_s = await self._record.next_due_s(full)
            if due_s is None or due_s > 0:
                return options.poll_s if due_s is None else due_s
            places = {host: max(0, options.in_flight_per_host_max - posts) for host, posts in self._hosts.items()}
            claimed = await self._record.claim(
                min(free, CLAIM_MAX), options.lease_s, options.in_flight_per_host_max, places
            )
            for delivery in claimed:
                self._begin(delivery)
            if not claimed:  # another deliverer holds them just now
                return 0.0
        self._short = True
        return options.poll_s

    def _begin(self, delivery: Delivery) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(delivery))
        self._in_flight.add(task)
        self._hosts[delivery.host] += 1

        def ended(task: asyncio.Task[None]) -> None:
            self._in_flight.discard(task)
            self._hosts[delivery.host] -= 1
            if not self._hosts[delivery.host]:
                del self._hosts[delivery.host]
            if self._short:
                self._wake.set()

        task.add_done_callback(ended)

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            answer = await self._post(delivery)
            async with asyncio.timeout(self._options.lease_s):  # afterwards the claim is not ours any more
                await self._settle(delivery, answer)
        except (DatabaseUnavailable, TimeoutError) as error:
            log.warning("webhook.unsettled", of=delivery.message_id, error=str(error))
        except Exception as error:
            log.failure("webhook.broken", error, of=delivery.message_id)

    async def _post(self, delivery: Delivery) -> Answer:
        body = _body(delivery)
        if body is None:
            what = "run" if delivery.alert_id is None else "alert"
            return Answer(0, error=f"the record of the {what} is gone", hopeless=True)
        try:
            secret = signing_secret(self._options.secrets, delivery.secret_env)
        except SecretUnusable as error:
            return Answer(0, error=str(error))
        headers = signed_headers(delivery.message_id, self._clock.now(), body, secret)
        return await self._poster.post(delivery.url, headers, body)

    async def _settle(self, delivery: Delivery, answer: Answer) -> None:
        if not answer.error:
            self._metrics.webhooks.add("delivered")
            await self._record.settle(Settlement(delivery.run_id, delivery.attempts))
            return
        asked_s = asked_delay_s(answer.retry_after, self._clock.now())
        retry_s = None if answer.hopeless else retry_delay_s(delivery.attempts, random.random(), asked_s)
        self._metrics.webhooks.add("given_up" if retry_s is None else "retried")
        if retry_s is None:
            log.warning("webhook.given_up", of=delivery.message_id, attempts=delivery.attempts, error=answer.error)
        await self._record.settle(Settlement(delivery.run_id, delivery.attempts, answer.error, retry_s))


def _body(delivery: Delivery) -> bytes | None:
    """What to say; None when what it is of is gone."""
    if delivery.alert is not None:
        return alert_payload(delivery.alert)
    return None if delivery.run is None else webhook_payload(delivery.run)
