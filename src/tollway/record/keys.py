"""API keys: stored as SHA-256, shown once, revoked for good.

A key is `tw_` and 40 URL-safe characters of 240 random bits, so a plain hash is as good as a slow one.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from tollway.domain.errors import ConfigError, Problem
from tollway.domain.words import Scope
from tollway.record.database import Database
from tollway.record.run_document import rfc3339
from tollway.record.sql import query

KEY_PREFIX = "tw_"
ADMIN_KEY_CHARS_MIN = 32
_KEY_BYTES = 30


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What a presented key stands for."""

    id: str
    tenant: str
    name: str
    scopes: frozenset[str]

    @property
    def admin(self) -> bool:
        """Whether the key may act for every tenant."""
        return Scope.ADMIN.value in self.scopes


def hash_key(secret: str | bytes) -> bytes:
    """The 32 bytes by which a key is known."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()


def make_secret() -> str:
    """A fresh key."""
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


async def ensure_admin_key(database: Database, secret: str) -> None:
    """Make `secret` the first admin key (id `admin`, tenant `default`). Raises ConfigError, DatabaseUnavailable."""
    check_admin_key(secret)
    await database.value("ensure_admin_key", hash_key(secret))


def check_admin_key(secret: str) -> None:
    """Raise ConfigError for what is too short or too odd to be the first admin key."""
    fit = secret.startswith(KEY_PREFIX) and len(secret) >= ADMIN_KEY_CHARS_MIN
    if not fit or not all("!" <= character <= "~" for character in secret):
        remedy = (
            f"must begin with {KEY_PREFIX} and be at least {ADMIN_KEY_CHARS_MIN} printable characters without spaces"
        )
        raise ConfigError("TOLLWAY_ADMIN_KEY", "(hidden)", remedy)


async def create_key(
    database: Database, key_id: UUID, tenant: str, name: str, scopes: list[str]
) -> tuple[dict[str, Any], int]:
    """Make a key; returns its document, secret included, and the settings' version.

    Raises Problem `not_found` for an unknown tenant, DatabaseUnavailable.
    """
    secret = make_secret()
    made = await database.row("create_key", f"key_{key_id.hex}", tenant, name, hash_key(secret), scopes)
    if made is None:
        raise unknown_tenant(tenant)
    return {**_document(made), "key": secret}, made["version"]


async def list_keys(database: Database, tenant: str, before: str | None, limit: int) -> list[dict[str, Any]]:
    """The keys of a tenant without their secrets, newest first. Raises DatabaseUnavailable."""
    rows = await database.rows("list_keys", tenant, before, limit)
    return [{**_document(row), "revoked_at": row["revoked_at"]} for row in rows]


async def revoke_key(database: Database, tenant: str, key_id: str) -> int:
    """End a key; returns the settings' version.

    Raises Problem `not_found` when the tenant has no such live key, `conflict` for the last admin key,
    DatabaseUnavailable.
    """
    async with database.connection() as connection, connection.transaction():
        await connection.fetchval(query("lock_settings"))
        version = await connection.fetchval(query("revoke_key"), key_id, tenant)
        if version is None:
            raise Problem(
                "not_found", f"Tenant {tenant} has no live key {key_id}; GET /v1/tenants/{tenant}/keys lists them."
            )
        if not await connection.fetchval(query("count_other_admin_keys"), key_id):
            raise Problem("conflict", "This is the last admin key; make another one before revoking it.")
    return int(version)


def unknown_tenant(tenant: str) -> Problem:
    """The refusal of a tenant that does not exist."""
    return Problem("not_found", f"There is no tenant {tenant!r}; an admin key makes one with PUT /v1/tenants/{tenant}.")


def _document(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "id": row["id"],
        "tenant": row["tenant"],
        "name": row["name"],
        "scopes": list(row["scopes"]),
        "created_at": rfc3339(row["created_at"]),
    }
