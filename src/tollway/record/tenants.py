"""Tenants: who is billed, limited and isolated."""

import json
from dataclasses import dataclass
from typing import Any

import asyncpg

from tollway.record.database import Database
from tollway.record.run_document import rfc3339

LIMITS = ("runs_per_s", "max_queued", "max_running", "tokens_per_min", "tokens_per_day")
_FIELDS = (
    "id",
    "name",
    "weight",
    *LIMITS,
    "paused",
    "created_at",
    "updated_at",
)


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A tenant as the API keeps it in memory; None is no limit."""

    id: str
    weight: float
    paused: bool
    document: dict[str, Any]
    runs_per_s: float | None = None
    max_queued: int | None = None
    max_running: int | None = None
    tokens_per_min: int | None = None
    tokens_per_day: int | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: self.document[name] for name in LIMITS if self.document[name] is not None}

    @property
    def counts_tokens(self) -> bool:
        """Whether it has a quota of tokens."""
        return self.tokens_per_min is not None or self.tokens_per_day is not None


@dataclass(frozen=True, slots=True)
class TenantPut:
    """A tenant as it was put, whether it is new, and the settings' version.

    `opened` are the lanes where runs of it may start that could not before.
    """

    document: dict[str, Any]
    created: bool
    version: int
    opened: list[str]


def tenant_record(row: asyncpg.Record) -> TenantRecord:
    """A row of `list_tenants` as a record."""
    quotas = (row[name] for name in LIMITS)
    return TenantRecord(row["id"], row["weight"], row["paused"], _document(row), *quotas)


async def put_tenant(database: Database, tenant: str, given: dict[str, Any]) -> TenantPut:
    """Make or change a tenant; absent fields stay, None lifts a limit. Raises DatabaseUnavailable."""
    async with database.connection() as connection, connection.transaction():
        row = (await database.on(connection, "put_tenant", tenant, json.dumps(given)))[0]
        await database.on(connection, "lock_broke", tenant)  # before its lines, as whoever marks an account does
        opened = {line["lane"] for line in await database.on(connection, "turn_flows", tenant)}
        opened.update(line["opened"] for line in await database.on(connection, "turn_broke", [tenant]))
    return TenantPut(_document(row), row["created"], row["version"], sorted(opened))


def _document(row: asyncpg.Record) -> dict[str, Any]:
    moments = {field: rfc3339(row[field]) for field in ("created_at", "updated_at")}
    url, secret_env = row["alert_url"], row["alert_secret_env"]
    hook = None if url is None else {"url": url, "secret_env": secret_env}
    return {field: row[field] for field in _FIELDS} | moments | {"alert_webhook": hook}
