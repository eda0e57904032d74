"""Where steps are numbered: the run's own task, or a branch of a gather. A task without a scope can number nothing."""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tollway.domain.errors import TollwayError


class ForeignTask(TollwayError):
    """A step was called from a task that has no scope of its own: its number would depend on the weather."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"step {name!r} was called from another task than its run's; use run.gather(...) to work in parallel"
        )


@dataclass(slots=True)
class Scope:
    """Where steps are numbered: the run's own task, or one branch of a gather."""

    prefix: str = ""
    count: int = 0
    owner: "asyncio.Task[Any] | None" = None


scope_now: ContextVar[Scope | None] = ContextVar("tollway_scope", default=None)
