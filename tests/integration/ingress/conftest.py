"""A started API on a record of the test's own, with the rights that processes have."""

from collections.abc import AsyncIterator

import pytest

from asgi_client import AsgiClient
from ingress_kit import ADMIN_KEY, ApiHarness, LocalNews, make_agent
from tollway.record.agents import publish_agents
from tollway.record.database import Database
from tollway.record.keys import ensure_admin_key


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
