"""Executions of agents that write nothing: claims and services with no record behind them."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tollway.domain.outcomes import Outcome
from tollway.record.claims import Claim
from tollway.runtime.executor import Execution
from tollway.runtime.journal import RunJournal
from tollway.runtime.registry import Registry
from tollway.runtime.run import RunServices
from tollway.spend.budgets import NO_BUDGETS

NOW = 1_800_000_000.0


class StillClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> float:
        """The set time."""
        return self.at

    def monotonic(self) -> float:
        """The set time."""
        return self.at


class NoWriter:
    """Nothing is written."""

    budgets = NO_BUDGETS


def make_claim(**given: Any) -> Claim:
    """A claim of a fresh run."""
    at = datetime.fromtimestamp(NOW, UTC)
    whole: dict[str, Any] = {
        "run_id": UUID(int=7), "fence": 1 << 16, "next_seq": 3, "errors": 0, "lost": 0, "started_at": at, "steps": 0,
        "llm_calls": 0, "agent": "agent", "tenant": "default", "lane": "standard", "version": "1", "input": b"null",
        "metadata": None, "created_at": at, "deadline_at": None, "max_attempts": 3, "budget_nano": None, "est_nano": 0,
        "key_id": "k", "cancelled_by": None, "hooked": False, "weight": 1.0, "tenant_weight": 1.0,
        "place": int(NOW * 1e6), "capped": False,
    }  # fmt: skip
    return Claim(**{**whole, **given})


def make_execution(agents: Registry, clock: StillClock | None = None, recorded: Any = (), **given: Any) -> Execution:
    """An execution of the one agent registered; steps that would write are out of bounds."""
    (spec,) = agents.all()
    clock = clock or StillClock()
    nothing: Any = None
    writer: Any = NoWriter()
    services = RunServices(nothing, nothing, nothing, lambda: 0.5, asyncio.get_running_loop())
    journal = RunJournal(make_claim(agent=spec.name, **given), recorded, writer, clock, "worker-1")
    return Execution(spec, journal, clock, services)


async def outcome_of(agents: Registry, **given: Any) -> Outcome:
    """How the one agent's run ends."""
    async with asyncio.timeout(20):
        return await make_execution(agents, **given).run()
