"""A scripted server for clients, one a test."""

from collections.abc import Iterator

import pytest
from contract_server import ContractServer, serving


@pytest.fixture
def server() -> Iterator[ContractServer]:
    """A server that answers as the test scripts it."""
    with serving() as running:
        yield running
