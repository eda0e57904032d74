"""The record behind PgBouncer in transaction mode: connections change under the client between any two transactions."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from record_kit import accept_all, claim, new_claims, new_run, success, whole_cycle
from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import DatabaseUnavailable
from tollway.record.accept import Accepts
from tollway.record.database import Database, DatabaseOptions
from tollway.record.journal import JournalRecord
from tollway.record.pooler import stands_behind_pooler
from tollway.record.server import EmbeddedPostgres
from tollway.record.tenants import put_tenant

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="the program pgbouncer is not installed (Debian: pgbouncer)")

_CONFIG = """
[databases]
* = host={server}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
logfile = {folder}/log
pidfile = {folder}/pid
"""


@pytest.fixture(scope="module")
def pooler(postgres: EmbeddedPostgres) -> Iterator[Path]:
    """The socket folder of a PgBouncer with 3 connections to the test server, run as the server's user."""
    server = Path(parse_qs(urlsplit(postgres.url).query)["host"][0])
    owner = server.stat()
    folder = Path(tempfile.mkdtemp(prefix="tollway-bouncer-"))
    (folder / "ini").write_text(_CONFIG.format(server=server, folder=folder))
    (folder / "users").write_text('"tollway_app" ""\n')
    user: dict[str, int] = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    if user:
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)
    process = subprocess.Popen([str(PROGRAM), "-q", str(folder / "ini")], **user)  # type: ignore[call-overload]
    try:
        give_up_at = time.monotonic() + 10
        while not (folder / ".s.PGSQL.6432").exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        yield folder
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pooled_url(pooler: Path, database_name: str) -> str:
    """The test's database as the pooler serves it."""
    return f"postgresql://tollway_app@/{database_name}?host={pooler}&port=6432"


@pytest.fixture
async def pooled(pooled_url: str) -> AsyncIterator[Database]:
    """Far more connections to the pooler than it has to the server."""
    opened = Database(DatabaseOptions(pooled_url, pooled=True, connections_max=20), AnchoredClock())
    await opened.start()
    yield opened
    await opened.stop()


async def test_the_pooler_is_noticed(pooled_url: str, database_url: str) -> None:
    """A pooler before the server is told apart from the server itself."""
    assert await stands_behind_pooler(pooled_url) is True
    assert await stands_behind_pooler(database_url) is False
    with pytest.raises(DatabaseUnavailable):
        await stands_behind_pooler("postgresql://nobody@127.0.0.1:1/none")


async def test_the_whole_cycle_works_behind_it(pooled: Database, admin: asyncpg.Connection) -> None:
    """From accept to partitions everything works without prepared statements and session state."""
    assert len(await whole_cycle(pooled)) == 4
    assert await admin.fetchval("select count(*) from queue") == 0


async def test_many_at_once_share_few_connections(pooled: Database, admin: asyncpg.Connection) -> None:
    """Accepts, claims and ends of many tasks at once over three connections: every run ends, none fails."""
    accepts = [Accepts(pooled) for _ in range(8)]
    ended = 0

    async def submit(number: int) -> None:
        for _ in range(10):
            await asyncio.gather(*(accepts[number].accept(new_run()) for _ in range(5)))
            await put_tenant(pooled, f"t{number}", {"weight": 1 + number})

    async def work() -> None:
        nonlocal ended
        claims, worker = await new_claims(pooled)
        record = JournalRecord(pooled, worker)
        while ended < 400:
            held = (await claim(claims, 20)).claims
            assert all(verdict is True for verdict in await record.complete([success(one) for one in held]))
            ended += len(held)

    async with asyncio.timeout(60):
        await asyncio.gather(*(submit(number) for number in range(8)), *(work() for _ in range(4)))
    assert ended == 400
    assert await admin.fetchval("select count(*) from run where state = 'succeeded'") == 400


async def test_the_roles_time_outs_hold_behind_it(pooled: Database) -> None:
    """What a session cannot set there, the role brings along."""
    async with pooled.connection() as connection:
        assert await connection.fetchval("show statement_timeout") == "30s"
        assert await connection.fetchval("show lock_timeout") == "10s"


async def test_the_servers_connections_may_be_lost_behind_it(pooled: Database, admin: asyncpg.Connection) -> None:
    """A backend lost behind the pooler is a database unavailable for a moment, which group commit makes good."""
    for _ in range(5):
        await admin.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where usename = 'tollway_app' and datname = current_database()"
        )
        await accept_all(pooled, [new_run() for _ in range(3)])
    assert await admin.fetchval("select count(*) from run") == 15
