"""Looks at money and routes every few seconds, and tells of what a person should know: alerts.

Each look is one transaction: what holds and is not open is told, with its webhooks; what is open and holds no longer is
over. A look that fails leaves nothing behind and is made again. Only the elected keeper looks.
"""

import asyncio
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from msgspec import to_builtins

from tollway.domain import money
from tollway.domain.alerts import Alert, AlertKind
from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.news import News
from tollway.llm.fallbacks import longest_fallbacks
from tollway.record.alerts import AlertRecord
from tollway.record.database import Connection, Database
from tollway.record.run_document import rfc3339_epoch
from tollway.record.spending import BurnRow, Excess, Lately, SpendRecord
from tollway.spend.burn import Burn, first_look
from tollway.spend.spikes import DEFAULT_RULE, LONG_S, SHORT_S, SpikeRule, is_spike, usual_hour_nano
from tollway.spend.thresholds import budget_alerts
from tollway.telemetry.logs import get_logger
from tollway.telemetry.metrics import Metrics

log = get_logger(__name__)

FALLBACK_S = 300.0
LATE_S = 300.0
"""An hour is added up so long after its end; what comes later counts when the next one is."""

FORGET_EVERY_S = 3600.0
_HOUR_S = 3600
_BUDGETS = frozenset((AlertKind.BUDGET_SOFT, AlertKind.BUDGET_EXHAUSTED, AlertKind.BUDGET_PROJECTED))


@dataclass(frozen=True, slots=True)
class AlertOptions:
    """Seconds between looks, per cent of a hard limit told of, what a spike is, days alerts are kept (0: for ever)."""

    every_s: float = 5.0
    percents: tuple[float, ...] = (50.0, 80.0, 100.0)
    spike: SpikeRule = DEFAULT_RULE
    keep_days: int = 0


@dataclass(frozen=True, slots=True)
class AlertParts:
    """What the watch works with; `in_office` says whether this keeper is the one."""

    database: Database
    alerts: AlertRecord
    spend: SpendRecord
    news: News
    clock: Clock
    metrics: Metrics
    in_office: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class _Found:
    """What holds, and the kinds that were judged at this look: what is open of these and not found is over."""

    alerts: list[Alert]
    judged: frozenset[AlertKind]


class AlertWatch:
    """Looks until stopped."""

    def __init__(self, parts: AlertParts, options: AlertOptions) -> None:
        self._parts = parts
        self._options = options
        self._usual: dict[str, float | None] = {}
        self._usual_hour = self._closed_hour = self._judged_minute = 0
        self._forget_at = self._looked_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; a second start is nothing."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_looking(), name="alerts")

    async def stop(self) -> None:
        """Stop; a second stop is nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def look(self) -> None:
        """One look. Raises DatabaseUnavailable, and then nothing was told."""
        parts, told, over = self._parts, list[Alert](), set[str]()
        async with parts.database.connection() as connection, connection.transaction():
            now = parts.clock.now()
            excesses = await parts.spend.fold(connection, now)  # first: it keeps a second keeper waiting
            open_keys = await parts.alerts.open_keys(connection)
            found = await self._find(connection, excesses, open_keys)
            news = [alert for alert in found.alerts if alert.key not in open_keys]
            if news:
                keys = await parts.alerts.tell(connection, news)
                told = [alert for alert in news if alert.key in keys]
            held = {alert.key for alert in found.alerts}
            ended = [key for key, kind in open_keys.items() if kind in found.judged and key not in held]
            if ended:
                over = await parts.alerts.end(connection, ended)
        self._looked_at = now
        self._say(told, over)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._options.every_s * random.uniform(0.9, 1.1))
            try:
                if self._parts.in_office():
                    await self.look()
                    await self._forget()
            except DatabaseUnavailable as error:
                self._begin_anew()
                log.warning("alerts.unreachable", error=str(error))
            except Exception as error:
                self._begin_anew()
                log.failure("alerts.broken", error)

    def _begin_anew(self) -> None:
        """What was done in the transaction of a failed look was not done."""
        self._closed_hour = self._judged_minute = 0

    async def _forget(self) -> None:
        now = self._parts.clock.monotonic()
        if now >= self._forget_at:
            self._forget_at = now + FORGET_EVERY_S
            await self._parts.alerts.forget_old(self._options.keep_days)
            await self._parts.spend.forget_old(self._parts.clock.now())

    async def _find(self, connection: Connection, excesses: list[Excess], open_keys: dict[str, str]) -> _Found:
        now = self._parts.clock.now()
        found = [
            *await self._budgets(connection, now, open_keys),
            *await self._fallbacks(connection, open_keys),
            *_exceeded(excesses, open_keys, now),
        ]
        judged = {*_BUDGETS, AlertKind.FALLBACK_LASTING, AlertKind.RESERVATION_EXCEEDED}
        minute = int(now // 60)
        if minute != self._judged_minute:
            self._judged_minute = minute
            found += await self._spikes(connection, minute * 60, open_keys)
            judged.add(AlertKind.SPEND_SPIKE)
        return _Found(found, frozenset(judged))

    async def _budgets(self, connection: Connection, now: float, open_keys: dict[str, str]) -> list[Alert]:
        found: list[Alert] = []
        changed: dict[int, BurnRow] = {}
        for period in await self._parts.spend.periods(connection):
            kept = None if period.burn is None else Burn(*period.burn).rested(self._looked_at)
            burn = first_look(now, period.spent_nano) if kept is None else kept.after(now, period.spent_nano)
            if kept is None or burn.spent_nano != kept.spent_nano or not burn.at_rest:
                changed[period.account] = (burn.since, burn.since_nano, burn.at, burn.spent_nano, burn.faded)
            found += budget_alerts(period, burn, self._options.percents, open_keys)
        if changed:
            await self._parts.spend.keep_burns(connection, changed)
        return found

    async def _fallbacks(self, connection: Connection, open_keys: dict[str, str]) -> list[Alert]:
        found = []
        longest = longest_fallbacks(await self._parts.alerts.told_fallbacks(connection))
        for tier, living in longest.items():
            key = f"{AlertKind.FALLBACK_LASTING}/{tier}"
            if living.for_s >= FALLBACK_S or key in open_keys:
                found.append(Alert(AlertKind.FALLBACK_LASTING, None, tier, key, {"tier": tier, **to_builtins(living)}))
        return found

    async def _spikes(self, connection: Connection, minute_s: int, open_keys: dict[str, str]) -> list[Alert]:
        spend, rule, prefix = self._parts.spend, self._options.spike, f"{AlertKind.SPEND_SPIKE}/"
        closed = int((minute_s - LATE_S) // _HOUR_S)
        if closed != self._closed_hour:
            await spend.close_hours(connection, closed * _HOUR_S)
            self._closed_hour = closed
        spiking = [key.removeprefix(prefix) for key in open_keys if key.startswith(prefix)]
        windows = (minute_s - SHORT_S, minute_s - LONG_S)
        lately = await spend.lately(connection, windows, rule.least_nano, spiking)
        await self._learn_usual(connection, list(lately), (minute_s - LONG_S) // _HOUR_S)
        return [
            _spike(tenant, spent, usual)
            for tenant, spent in lately.items()
            if (usual := self._usual[tenant]) is not None
            and is_spike(spent, usual, rule, was=prefix + tenant in open_keys)
        ]

    async def _learn_usual(self, connection: Connection, tenants: list[str], hour: int) -> None:
        """What these tenants usually spend in an hour; it is worked out once an hour and tenant."""
        if hour != self._usual_hour:
            self._usual, self._usual_hour = {}, hour
        unknown = [tenant for tenant in tenants if tenant not in self._usual]
        if unknown:
            for tenant, past in (await self._parts.spend.past(connection, unknown, hour)).items():
                self._usual[tenant] = usual_hour_nano(past, hour)

    def _say(self, told: Iterable[Alert], over: Iterable[str]) -> None:
        for alert in told:
            self._parts.metrics.alerts.add(alert.kind)
            data = json.dumps(alert.data)
            log.warning("alert.told", kind=alert.kind, tenant=alert.tenant or "", subject=alert.subject, data=data)
        for key in over:
            log.info("alert.over", alert=key)
        if told:
            self._parts.news.publish("webhook", "")


def _exceeded(excesses: Iterable[Excess], open_keys: Iterable[str], now: float) -> list[Alert]:
    """Calls that cost more than was reserved for them, by route and hour; such an alert is over with its hour."""
    found = []
    for excess in excesses:
        key = f"{AlertKind.RESERVATION_EXCEEDED}/{excess.route}/{int(excess.hour)}"
        data = {"route": excess.route, "hour": rfc3339_epoch(excess.hour), "calls": excess.calls}
        data |= {"excess_usd": money.usd(excess.nano), "excess_nano": excess.nano}
        found.append(Alert(AlertKind.RESERVATION_EXCEEDED, None, excess.route, key, data))
    for key in open_keys:
        kind, _, rest = key.partition("/")
        route, _, hour = rest.rpartition("/")
        if kind == AlertKind.RESERVATION_EXCEEDED and now < int(hour) + _HOUR_S + LATE_S:
            found.append(Alert(AlertKind.RESERVATION_EXCEEDED, None, route, key))
    return found


def _spike(tenant: str, lately: Lately, usual_nano: float) -> Alert:
    usual = round(usual_nano)
    data = {
        "last_10_min_usd": money.usd(lately.short_nano),
        "last_10_min_nano": lately.short_nano,
        "last_hour_usd": money.usd(lately.long_nano),
        "last_hour_nano": lately.long_nano,
        "usual_hour_usd": money.usd(usual),
        "usual_hour_nano": usual,
    }
    return Alert(AlertKind.SPEND_SPIKE, tenant, tenant, f"{AlertKind.SPEND_SPIKE}/{tenant}", data)
