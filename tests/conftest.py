"""What every test may ask for."""

from collections.abc import Iterator

import pytest

from tollway.record.server import EmbeddedPostgres
from tollway.testing.postgres import ephemeral_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One real PostgreSQL for all tests of this test process."""
    with ephemeral_postgres() as server:
        yield server
