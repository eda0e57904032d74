"""Agents of the test's own, a simulated provider, and a worker for them."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from runtime_kit import SIM_MODELS, Crew, crew, fresh_registry
from tollway.runtime.registry import Registry
from tollway.simulator.provider import RunningSim, start_provider_sim


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """What the test registers with `@tollway.agent`."""
    with fresh_registry(monkeypatch) as registry:
        yield registry


@pytest.fixture
async def sim() -> AsyncIterator[RunningSim]:
    """A simulated provider with a model for each of the tests' tiers."""
    running = await start_provider_sim({"models": SIM_MODELS})
    yield running
    await running.stop()


CrewMaker = Callable[..., AbstractAsyncContextManager[Crew]]


@pytest.fixture
def make_crew(database_url: str, agents: Registry, sim: RunningSim) -> CrewMaker:
    """Starts a worker for the agents registered so far."""

    def make(**given: Any) -> AbstractAsyncContextManager[Crew]:
        return crew(database_url, agents, sim, **given)

    return make
