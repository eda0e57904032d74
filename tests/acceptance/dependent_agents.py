"""Agents whose runs need a service: a file stands for it, and while it is not there every call is refused."""

from contextlib import suppress
from pathlib import Path

import tollway


def serve(path: str) -> str:
    """One call of the service."""
    if not Path(path).exists():
        raise ConnectionRefusedError(path)
    return "served"


@tollway.agent
async def pokes(run: tollway.Run, path: str) -> None:
    """Calls the service, whatever comes of it."""
    with suppress(ConnectionRefusedError):
        await run.task("poke", serve, path, dependency="crm")


@tollway.agent(requires=["crm"])
async def syncs(run: tollway.Run, path: str) -> str:
    """Cannot do without the service."""
    return await run.task("push", serve, path, dependency="crm")


@tollway.agent
async def enriches(run: tollway.Run, path: str) -> str | None:
    """Can do without it."""
    return await run.task("enrich", serve, path, dependency="crm", optional=True)
