"""A fresh clone of the migrated record for each test, and an API on it."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

import tollway.record.sql
from tests.asgi_client import AsgiClient
from tests.integration.ingress.harness import ADMIN_KEY, ApiHarness, LocalNews, make_agent
from tollway.domain.clock import AnchoredClock
from tollway.record.agents import publish_agents
from tollway.record.database import Database, DatabaseOptions
from tollway.record.keys import ensure_admin_key
from tollway.record.server import EmbeddedPostgres

_numbers = itertools.count()
_TEMPLATE = "ingress_template"


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def database_url(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The DSN of a database of this test's own."""
    admin = postgres.admin_url
    connection = await asyncpg.connect(admin)
    known = await connection.fetchval("select count(*) from pg_database where datname = $1", _TEMPLATE)
    await connection.close()
    if not known:
        await _execute(admin, f"create database {_TEMPLATE} owner tollway")
        migrations = Path(tollway.record.sql.__file__).parent / "migrations"
        await _execute(
            postgres.url_of("tollway", _TEMPLATE), *(p.read_text() for p in sorted(migrations.glob("*.sql")))
        )
    name = f"ingress_{next(_numbers)}"
    await _execute(admin, f"create database {name} template {_TEMPLATE} owner tollway")
    yield postgres.url_of("tollway", name)
    await _execute(admin, f"drop database {name} with (force)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool on this test's record."""
    database = Database(DatabaseOptions(database_url, connections_max=4), AnchoredClock())
    await database.start()
    yield database
    await database.stop()


@pytest.fixture
async def harness(database: Database) -> AsyncIterator[ApiHarness]:
    """A started API with the agents `echo` (any input) and `triage` (an object with a text)."""
    await ensure_admin_key(database, ADMIN_KEY)
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    await publish_agents(database, [make_agent("echo", {}), make_agent("triage", schema)])
    harness = ApiHarness(database, LocalNews())
    await harness.api.start()
    yield harness
    await harness.api.stop()


@pytest.fixture
def admin(harness: ApiHarness) -> AsgiClient:
    """A client with the admin key."""
    return AsgiClient(harness.api, ADMIN_KEY)
