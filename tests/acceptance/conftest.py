"""One whole Tollway for all acceptance tests of a session."""

from collections.abc import Iterator

import pytest
from stack_kit import CHANGING, Http, Stack, another_api

SETTINGS = """
[worker]
slots = 100
"""
PACE = {
    "latency_s": {"mean": 0.02, "law": "constant"},
    "tokens_per_s": 0,
    "output_tokens": {"mean": 8, "law": "constant"},
}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`tollway up` with the agents of `contract_agents` and of `changing`, which a test may change."""
    folder = tmp_path_factory.mktemp("tollway")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    (folder / "changing.py").write_text(CHANGING)
    started = Stack(folder, "contract_agents", "changing", settings=SETTINGS)
    try:
        started.ready()
        assert started.sim.post("/sim/config", PACE).status == 200
        yield started
        assert started.stop() == 0, started.tail()
    finally:
        started.stop()


@pytest.fixture(scope="session")
def http(stack: Stack) -> Http:
    """A client with the admin key."""
    return stack.http


@pytest.fixture(scope="session")
def other_api(stack: Stack) -> Iterator[Http]:
    """A second API process on the same database, with the admin key."""
    with another_api(stack) as second:
        yield second
