"""Agents as workers publish them and as the API checks requests against them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import asyncpg

from tollway.record.database import Database


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """One version of an agent: what it takes and gives (JSON Schema), where it runs, its bounds in seconds."""

    name: str
    version: str
    lane: str
    tier: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    timeout_s: float
    max_attempts: int
    requires: tuple[str, ...] = ()
    priority_s: float = 0.0
    published_at: datetime | None = None


def agent_record(row: asyncpg.Record) -> AgentRecord:
    """A row of `list_agents` as a record."""
    return AgentRecord(
        name=row["name"],
        version=row["version"],
        lane=row["lane"],
        tier=row["tier"],
        input_schema=json.loads(row["input_schema"]),
        output_schema=json.loads(row["output_schema"]),
        timeout_s=row["timeout_s"],
        max_attempts=row["max_attempts"],
        requires=tuple(row["requires"]),
        priority_s=row["priority_s"],
        published_at=row["published_at"],
    )


async def publish_agents(database: Database, agents: Sequence[AgentRecord]) -> bool:
    """Write what a worker serves; the version published last is the one new runs get.

    Returns whether anything is new: then publish on the channel "settings". Raises DatabaseUnavailable.
    """
    rows = [asdict(agent) for agent in agents]
    for row in rows:
        del row["published_at"]
    return await database.value("publish_agents", json.dumps(rows)) is not None
