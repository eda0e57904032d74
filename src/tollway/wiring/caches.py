"""The caches of a process: one memory and one way to the shared tier, beneath the answers of models and of tasks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from tollway.hotstate.answers import PostgresAnswers
from tollway.llm.cache.answers import Kept, KeptResult
from tollway.llm.cache.exact import ExactCache
from tollway.llm.cache.memory import Memory
from tollway.llm.cache.shared import SharedAnswers
from tollway.record.database import Database
from tollway.wiring.base import Base

SHARED_TIMES = 8
"""The shared tier holds as much as so many processes' memories."""


@dataclass(frozen=True, slots=True)
class Caches:
    """The exact caches of one process, by kind."""

    llm: ExactCache[Kept]
    tasks: ExactCache[KeptResult]


@asynccontextmanager
async def caches(parts: Base) -> AsyncIterator[Caches]:
    """The process' caches, on connections of their own whose commits do not wait for the disk."""
    settings = parts.settings.llm
    lazy = Database(replace(parts.database.options, durable=False, connections_max=3), parts.clock)
    await lazy.start(anchor=False)
    memory, shared = Memory(settings.cache_bytes_max), SharedAnswers(PostgresAnswers(lazy), parts.clock)
    try:
        yield Caches(
            ExactCache(Kept, memory, shared, parts.clock, settings.cache_ttl_s, single_flight=settings.single_flight),
            ExactCache(KeptResult, memory, shared, parts.clock, settings.cache_ttl_s),
        )
    finally:
        await shared.drain()
        await lazy.stop()
