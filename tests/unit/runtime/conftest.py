"""Agents of the test's own."""

from collections.abc import Iterator

import pytest

from runtime_kit import fresh_registry
from tollway.runtime.registry import Registry


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """What the test registers with `@tollway.agent`."""
    with fresh_registry(monkeypatch) as registry:
        yield registry
