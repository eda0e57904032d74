"""Alerts in the record: told once while they are open, with their webhooks in the same statement, and listed.

Two keepers that look at once tell an alert once: an open one is unique by its key.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from tollway.domain.alerts import Alert
from tollway.domain.ids import IdMaker, floor_at
from tollway.record.database import Connection, Database

FORGET_MAX = 5000


@dataclass(frozen=True, slots=True)
class AlertHook:
    """The operator's receiver of alerts, and the kinds it is told of; an empty `url` is none."""

    url: str = ""
    secret_env: str = ""
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts are meant; None: any. `since` is epoch seconds."""

    tenant: str | None = None
    kind: str | None = None
    since: float | None = None
    open_only: bool = False


class AlertRecord:
    """The keeper's verbs on alerts. All raise DatabaseUnavailable."""

    def __init__(self, database: Database, ids: IdMaker, hook: AlertHook) -> None:
        self._database = database
        self._ids = ids
        self._hook = hook

    async def open_keys(self, connection: Connection) -> dict[str, str]:
        """The keys of alerts that are not over, each with its kind."""
        return {row["key"]: row["kind"] for row in await self._database.on(connection, "list_open_alerts")}

    async def tell(self, connection: Connection, alerts: Sequence[Alert]) -> set[str]:
        """Tell of what is not open yet; returns the keys of those."""
        hook = self._hook
        rows = await self._database.on(
            connection,
            "raise_alerts",
            [self._ids.new() for _ in alerts],
            [alert.tenant for alert in alerts],
            [alert.kind for alert in alerts],
            [alert.subject for alert in alerts],
            [alert.key for alert in alerts],
            [json.dumps(alert.data) for alert in alerts],
            hook.url or None,
            hook.secret_env or None,
            hook.kinds,
        )
        return {row["key"] for row in rows}

    async def end(self, connection: Connection, keys: Collection[str]) -> set[str]:
        """These are over; returns those that were open."""
        return {row["key"] for row in await self._database.on(connection, "end_alerts", list(keys))}

    async def told_fallbacks(self, connection: Connection) -> list[Mapping[str, Any]]:
        """What live processes tell of tiers served by another route than theirs; the form is not checked."""
        rows = await self._database.on(connection, "list_told_fallbacks")
        return [told for row in rows if isinstance(told := json.loads(row["fallbacks"]), dict)]

    async def forget_old(self, keep_days: int) -> None:
        """Forget what was over more than `keep_days` ago (0: keep it for ever)."""
        while keep_days and len(await self._database.rows("drop_old_alerts", keep_days, FORGET_MAX)) == FORGET_MAX:
            pass


async def list_alerts(database: Database, wanted: AlertFilter, before: UUID | None, limit: int) -> list[dict[str, Any]]:
    """Alerts as documents, newest first, told before the alert `before`. Raises DatabaseUnavailable."""
    since = floor_at(wanted.since or 0.0)
    rows = await database.rows("list_alerts", wanted.tenant, wanted.kind, since, before, wanted.open_only, limit)
    return [{**alert_document(row), "over_at": row["over_at"]} for row in rows]


async def read_alerts(database: Database, alerts: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """Alerts by id, as their webhooks tell of them. Raises DatabaseUnavailable."""
    return {row["id"]: alert_document(row) for row in await database.rows("read_alerts", alerts)} if alerts else {}


def alert_document(row: asyncpg.Record) -> dict[str, Any]:
    """An alert but for its end, which may come while its webhook is under way."""
    shown = {name: row[name] for name in ("id", "kind", "tenant", "subject", "at")}
    return {**shown, "data": json.loads(row["data"])}
