"""What every test may ask for."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count

import asyncpg
import pytest
import uvloop
from hypothesis import settings

from record_kit import drop_database, make_database, session
from tollway.domain.clock import AnchoredClock
from tollway.record.database import Database, DatabaseOptions
from tollway.record.migrate import migrate
from tollway.record.server import EmbeddedPostgres
from tollway.testing.postgres import ephemeral_postgres

_clones = count(1)
# Speed is measured by the benchmarks; a slow moment of a shared machine proves nothing here.
settings.register_profile("tollway", deadline=None)
settings.load_profile("tollway")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop that the processes run on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One real PostgreSQL for all tests of this test process."""
    with ephemeral_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated database to clone; nobody connects to it."""

    async def make() -> str:
        await make_database(postgres, "template_tollway")
        await migrate(postgres.url_of("tollway", "template_tollway"))
        return "template_tollway"

    return asyncio.run(make())


@pytest.fixture
async def database_name(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """The name of a migrated database of the test's own."""
    name = f"clone_{next(_clones)}"
    await make_database(postgres, name, template)
    yield name
    await drop_database(postgres, name)


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, database_name: str) -> str:
    """A migrated database of the test's own, for the role that processes use."""
    return postgres.url_of("tollway_app", database_name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Connections of the processes' role to a migrated database of the test's own."""
    opened = Database(DatabaseOptions(database_url), AnchoredClock())
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
async def admin(postgres: EmbeddedPostgres, database_name: str) -> AsyncIterator[asyncpg.Connection]:
    """The superuser's connection to the test's database, to arrange and to look."""
    async with session(postgres.url_of("postgres", database_name)) as connection:
        yield connection
