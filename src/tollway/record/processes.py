"""The rows by which processes know of each other: one beat each, what they have read, what they do.

A worker's claims hang on its row; an API process' right to answer hangs on the age of its own last beat.
"""

import json
import os
import socket
from dataclasses import dataclass
from typing import Any

from tollway.domain.errors import DatabaseUnavailable
from tollway.record.database import Database


@dataclass(frozen=True, slots=True)
class LiveProcess:
    """A process with a fresh beat."""

    id: int
    role: str
    host: str
    pid: int
    stopping: bool
    settings_seen: int
    facts: dict[str, Any]


class ProcessGone(DatabaseUnavailable):
    """The process' own row was taken away (it was thought dead): register again."""


async def register_process(
    database: Database, role: str, lease_ttl_s: float, facts: dict[str, Any] | None = None
) -> int:
    """Enter this process (`api`, `worker` or `keeper`); returns its incarnation. Raises DatabaseUnavailable."""
    made = await database.value(
        "register_process", role, socket.gethostname(), os.getpid(), lease_ttl_s, json.dumps(facts or {})
    )
    return int(made)


async def beat_process(
    database: Database, process_id: int, settings_seen: int, facts: dict[str, Any], *, stopping: bool = False
) -> int:
    """Beat once; returns the settings' version. Raises DatabaseUnavailable, ProcessGone."""
    version = await database.value("beat_process", process_id, settings_seen, json.dumps(facts), stopping)
    if version is None:
        raise ProcessGone(f"process {process_id} is no longer on record")
    return int(version)


async def leave_process(database: Database, process_id: int) -> None:
    """Take the row away. Raises DatabaseUnavailable."""
    await database.value("leave_process", process_id)


async def live_processes(database: Database, *roles: str) -> list[LiveProcess]:
    """Every process of these roles whose beat is within its lease. Raises DatabaseUnavailable."""
    return [
        LiveProcess(
            row["id"],
            row["role"],
            row["host"],
            row["pid"],
            row["stopping"],
            row["settings_seen"],
            json.loads(row["facts"]),
        )
        for row in await database.rows("list_processes", roles)
    ]


async def count_behind(database: Database, version: int) -> int:
    """Live API processes that have not read the settings up to `version`. Raises DatabaseUnavailable."""
    return int(await database.value("count_behind", version))


async def retire_processes(database: Database, pids: list[int]) -> int:
    """Say of ended processes of this machine that they are dead, so that nobody waits for their leases.

    Only for whoever saw them end. Returns how many were on record. Raises DatabaseUnavailable.
    """
    return len(await database.rows("retire_process", socket.gethostname(), pids))
