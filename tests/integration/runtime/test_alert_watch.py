"""The watch over money and routes, on the real PostgreSQL: what is told, once, and when it is over."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from ingress_kit import LocalNews
from record_kit import budget_with_period, clock, ids, pay, until_blocked
from tollway.domain.alerts import AlertKind
from tollway.record.alerts import AlertFilter, AlertHook, AlertRecord, list_alerts
from tollway.record.database import Database
from tollway.record.processes import register_process
from tollway.record.spending import SpendRecord, read_burns
from tollway.runtime.alert_watch import AlertOptions, AlertParts, AlertWatch
from tollway.spend.burn import Burn
from tollway.telemetry.metrics import Metrics

HOUR_S = 3600
_GONE = "update budget_account set exhausted_at = now(), exhausted_lanes = 'all', exhausted_below = 1 where id = $1"
USD = 1_000_000_000


class SetClock:
    """A clock that a test sets ahead of the database's."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> float:
        return clock.now() + self.ahead_s

    def monotonic(self) -> float:
        return clock.monotonic() + self.ahead_s


class Watching:
    """A watch with news, metrics and a clock of the test's own."""

    def __init__(self, database: Database, hook: AlertHook, options: AlertOptions | None = None) -> None:
        self.news = LocalNews()
        self.metrics = Metrics()
        self.clock = SetClock()
        self.database = database
        self.elected = True
        self.parts = AlertParts(
            database,
            AlertRecord(database, ids, hook),
            SpendRecord(database),
            self.news,
            self.clock,
            self.metrics,
            lambda: self.elected,
        )
        self.watch = AlertWatch(self.parts, options or AlertOptions())

    async def look(self) -> list[str]:
        """The keys of the alerts that are open after a look."""
        await self.watch.look()
        async with self.database.connection() as connection:
            return sorted(await self.parts.alerts.open_keys(connection))

    async def told(self, **filters: Any) -> list[dict[str, Any]]:
        """Every alert, newest first."""
        return await list_alerts(self.database, AlertFilter(**filters), None, 100)


@pytest.fixture
def watching(database: Database) -> Watching:
    """A watch whose operator has no receiver."""
    return Watching(database, AlertHook())


async def test_a_look_at_nothing_tells_nothing(watching: Watching) -> None:
    """Without budgets, money or fallback no alert is told, and nobody is woken."""
    assert await watching.look() == []
    assert watching.news.said == []


async def test_a_budget_is_told_of_once_a_period_and_threshold(watching: Watching, admin: asyncpg.Connection) -> None:
    """Half of a budget, four fifths and its end are each told once (P12), and are over with the period."""
    account = await budget_with_period(admin, hard_nano=1000)
    for spent in (100, 500, 600, 850, 850):
        await admin.execute("update budget_account set spent_nano = $2 where id = $1", account, spent)
        await watching.look()
    soft = AlertKind.BUDGET_SOFT
    assert [alert["data"]["at_pct"] for alert in await watching.told(kind=soft)] == [80, 50]
    await admin.execute(_GONE, account)
    keys = await watching.look()
    assert keys == [f"budget_exhausted/{account}", *(f"budget_soft/{account}/{pct}" for pct in (100, 50, 80))]
    assert {alert["tenant"] for alert in await watching.told()} == {"default"}
    assert watching.metrics.alerts.value(soft) == 3
    assert watching.metrics.alerts.value(AlertKind.BUDGET_EXHAUSTED) == 1
    await admin.execute("update budget_account set ends = now() - interval '1 second' where id = $1", account)
    assert await watching.look() == []
    assert all(alert["over_at"] is not None for alert in await watching.told())
    assert len(await watching.told()) == 4


async def test_a_budget_that_will_not_last_is_told_of(watching: Watching, admin: asyncpg.Connection) -> None:
    """A rate that ends the money within the period is told with its rate and the time; its burn is kept meanwhile."""
    account = await budget_with_period(admin, hard_nano=1000 * USD)
    await admin.execute("update budget_account set ends = now() + interval '20 hours' where id = $1", account)
    for minute in range(21):
        watching.clock.ahead_s = minute * 60
        await admin.execute("update budget_account set spent_nano = $2 where id = $1", account, minute * 5 * USD)
        keys = await watching.look()
    assert keys == [f"budget_projected/{account}"]
    (alert,) = await watching.told()
    assert 250 < alert["data"]["burn_usd_per_hour"] < 320
    assert alert["data"]["exhausts_at"] < alert["data"]["ends_at"]
    assert await admin.fetchval("select spent_nano from budget_burn where account = $1", account) == 100 * USD


async def test_what_goes_after_a_rest_is_no_slow_burn(watching: Watching, admin: asyncpg.Connection) -> None:
    """Money that goes at once after hours without any is the rate of ten minutes, not spread over those hours."""
    account = await budget_with_period(admin, hard_nano=1000 * USD)
    for ahead_s, spent in ((0.0, 0), (10.0 * HOUR_S, 0), (10.0 * HOUR_S + 5, 3 * USD)):
        watching.clock.ahead_s = ahead_s
        await admin.execute("update budget_account set spent_nano = $2 where id = $1", account, spent)
        await watching.look()
    (burn,) = (await read_burns(watching.database, "default")).values()
    assert Burn(*burn).recent * 600 == pytest.approx(3 * USD, rel=0.02)


async def test_a_spike_is_told_and_over(watching: Watching, admin: asyncpg.Connection) -> None:
    """A tenant that spends many times its usual hour is told of once, others are not; calm again, it is over."""
    await watching.look()
    now = clock.now()
    hour = int(now // HOUR_S)
    for age in range(1, 30):
        for tenant in ("acme", "calm"):
            await admin.execute(
                "insert into spend_hour values ($1, to_timestamp($2), $3)", tenant, float(hour - age) * HOUR_S, 2 * USD
            )
    await pay(admin, 3 * USD, tenant="calm")
    await pay(admin, 500 * USD, tenant="new")
    await pay(admin, 30 * USD)
    watching.clock.ahead_s = 61
    assert await watching.look() == ["spend_spike/acme"]
    assert await watching.look() == ["spend_spike/acme"]
    (alert,) = await watching.told(kind=AlertKind.SPEND_SPIKE)
    assert (alert["tenant"], alert["data"]["last_hour_usd"], alert["data"]["usual_hour_usd"]) == ("acme", 30.0, 2.0)
    assert alert["over_at"] is None
    watching.clock.ahead_s = 2 * HOUR_S
    assert await watching.look() == []


async def test_fallback_is_told_after_five_minutes(watching: Watching, admin: asyncpg.Connection) -> None:
    """A tier that a process says has lived on fallback for five minutes is told of; over when nobody says so."""
    told = {"for_s": 200.0, "calls": 40, "route": "spare", "instead_of": "main", "reason": "breaker_open"}
    facts: dict[str, Any] = {"fallbacks": {"fast": told, "odd": "nonsense"}}
    process = await register_process(watching.database, "worker", 60.0, facts)
    await register_process(watching.database, "api", 60.0, {"fallbacks": ["nonsense"], "metrics": {}})
    assert await watching.look() == []
    await _tell(admin, process, {"fallbacks": {"fast": {**told, "for_s": 301.5}}})
    assert await watching.look() == ["fallback_lasting/fast"]
    (alert,) = await watching.told()
    assert alert["tenant"] is None
    assert alert["data"] == {"tier": "fast", **told, "for_s": 301.5}
    await _tell(admin, process, {"fallbacks": {"fast": {**told, "for_s": 70.0}}})
    assert await watching.look() == ["fallback_lasting/fast"]
    await _tell(admin, process, {})
    assert await watching.look() == []


async def _tell(admin: asyncpg.Connection, process: int, facts: dict[str, Any]) -> None:
    await admin.execute("update process set facts = $2::jsonb where id = $1", process, json.dumps(facts))


async def test_estimates_too_low_are_told_by_route_and_hour(watching: Watching, admin: asyncpg.Connection) -> None:
    """What calls cost beyond their reservation is told once a route and hour; the alert is over with the hour."""
    await watching.look()
    for nano in (5, 7):
        await pay(admin, nano, kind="adjust")
    (key,) = await watching.look()
    assert key.startswith("reservation_exceeded/sim/")
    await pay(admin, 9, kind="adjust")
    assert len(await watching.look()) in (1, 2)  # the hour may just have turned
    alert = (await watching.told())[-1]
    assert (alert["tenant"], alert["subject"], alert["data"]["calls"]) == (None, "sim", 2)
    assert alert["data"]["excess_nano"] == 12
    watching.clock.ahead_s = 2 * HOUR_S
    assert await watching.look() == []


async def test_two_keepers_tell_once(watching: Watching, admin: asyncpg.Connection) -> None:
    """Looks of two keepers at once take turns, and the second finds everything told."""
    account = await budget_with_period(admin, hard_nano=1000)
    await admin.execute("update budget_account set spent_nano = 600 where id = $1", account)
    other = Watching(watching.database, AlertHook())
    await asyncio.gather(*(one.watch.look() for one in (watching, other) for _ in range(3)))
    assert len(await watching.told()) == 1


async def test_a_look_that_fails_tells_nothing(watching: Watching, admin: asyncpg.Connection) -> None:
    """A look cut in its midst leaves neither alert nor webhook; the next one tells."""
    account = await budget_with_period(admin, hard_nano=1000)
    await admin.execute("update budget_account set spent_nano = 600 where id = $1", account)
    async with admin.transaction():
        await admin.execute("lock table alert in access exclusive mode")
        cut = asyncio.create_task(watching.watch.look())
        await until_blocked(admin)
        cut.cancel()
        await asyncio.gather(cut, return_exceptions=True)
    assert await watching.told() == []
    assert await watching.look() == [f"budget_soft/{account}/50"]


async def test_receivers_are_told_of_what_they_want(database: Database, admin: asyncpg.Connection) -> None:
    """The operator hears of the kinds it asked for, a tenant of its own; each delivery is due at once."""
    hook = AlertHook("http://operator.test/hook", "OPERATOR", (AlertKind.BUDGET_EXHAUSTED, AlertKind.FALLBACK_LASTING))
    watching = Watching(database, hook)
    await admin.execute("update tenant set alert_url = 'http://tenant.test/hook', alert_secret_env = 'TENANT'")
    account = await budget_with_period(admin, hard_nano=1000)
    await admin.execute("update budget_account set spent_nano = 600 where id = $1", account)
    await watching.look()
    assert await _due(admin) == [("budget_soft", "http://tenant.test/hook", "TENANT")]
    assert watching.news.said == [("webhook", "")]
    await admin.execute("delete from webhook_delivery")
    await admin.execute(_GONE, account)
    await register_process(database, "worker", 60.0, {"fallbacks": {"fast": {"for_s": 400}}})
    await watching.look()
    assert await _due(admin) == [
        ("budget_exhausted", "http://operator.test/hook", "OPERATOR"),
        ("budget_exhausted", "http://tenant.test/hook", "TENANT"),
        ("budget_soft", "http://tenant.test/hook", "TENANT"),
        ("fallback_lasting", "http://operator.test/hook", "OPERATOR"),
    ]


async def _due(admin: asyncpg.Connection) -> list[tuple[str, str, str]]:
    rows = await admin.fetch(
        "select a.kind, w.url, w.secret_env from webhook_delivery w join alert a on a.id = w.alert"
        " where w.due_at <= now() order by 1, 2"
    )
    return [tuple(row) for row in rows]


async def test_the_watch_looks_while_it_is_in_office(watching: Watching, admin: asyncpg.Connection) -> None:
    """A keeper that is not the elected one does not look; elected, it looks, and forgets what is long over."""
    account = await budget_with_period(admin, hard_nano=1000)
    await admin.execute("update budget_account set spent_nano = 600 where id = $1", account)
    await admin.execute(
        "insert into alert (id, kind, subject, key, data, over_at)"
        " values ($1, 'spend_spike', 'x', 'x', '{}', now() - interval '40 days')",
        ids.new(),
    )
    watching.elected = False
    quick = AlertWatch(watching.parts, replace(AlertOptions(), every_s=0.01, keep_days=30))
    await quick.start()
    await quick.start()
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert [alert["subject"] for alert in await watching.told()] == ["x"]
    watching.elected = True
    async with asyncio.timeout(20):
        while [alert["kind"] for alert in await watching.told()] != ["budget_soft"]:
            await asyncio.sleep(0.02)
    await quick.stop()
    await quick.stop()
