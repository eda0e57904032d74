"""A whole Tollway that has nothing to do: what it asks of the database, and what `/metrics` shows of its processes."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from tollway.record.server import running_url

ROOT = Path(__file__).parents[2]
READY_S = 90.0
LOOK_S = 8.0
QUERIES_A_SECOND_MAX = 2.0
PROCESSES = ("up", "api", "worker", "keeper")
_SPENT = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"


@dataclass(frozen=True)
class Stack:
    """A running `tollway up`."""

    url: str
    data_dir: Path

    def get(self, path: str) -> str:
        """The body of a route. Raises OSError."""
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return str(answer.read().decode())


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """`tollway up` with one worker, ready; stopped at the end, with exit code 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data_dir = tmp_path / "data"
    command = [sys.executable, "-m", "tollway", "up", "--agents", "examples.agents", "--workers", "1"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [*command, "--port", str(port), "--data-dir", str(data_dir)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as up,
    ):
        running = Stack(f"http://127.0.0.1:{port}", data_dir)
        try:
            until_ready(running, up, tmp_path / "log")
            yield running
        finally:
            up.send_signal(signal.SIGTERM)
            try:
                code = up.wait(timeout=30)
            except subprocess.TimeoutExpired:
                up.kill()
                raise
        assert code == 0


def until_ready(stack: Stack, up: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when `/readyz` answers 200."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            stack.get("/readyz")
            return
        except OSError:
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


async def transactions_over(url: str, calm_s: float, look_s: float) -> tuple[int, float]:
    """Transactions of the whole database while nobody asks for anything, and the seconds they were counted for.

    A backend tells its counts up to 10 s late, so they are read from one connection at both ends, and what it did while
    starting up is waited out first.
    """
    connection = await asyncpg.connect(url)
    try:
        while calm_s > 0:  # what starting up still asks for is not idleness
            await asyncio.sleep(0.5)
            calm_s -= 0.5
        before, began = await connection.fetchval(_SPENT), time.monotonic()
        while time.monotonic() - began < look_s:
            await asyncio.sleep(0.5)
        return await connection.fetchval(_SPENT) - before, time.monotonic() - began
    finally:
        await connection.close()


async def test_idle_means_almost_no_queries(stack: Stack) -> None:
    """With nothing to do, fewer than two transactions a second and process reach the database (P8)."""
    url = running_url(stack.data_dir, "postgres")
    assert url is not None
    spent, took_s = await transactions_over(url, calm_s=12.0, look_s=LOOK_S)
    assert spent <= QUERIES_A_SECOND_MAX * len(PROCESSES) * took_s
    shown = await asyncio.to_thread(stack.get, "/metrics")
    processes = set(re.findall(r'process="([a-z]+-\d+)"', shown))
    assert {name.split("-")[0] for name in processes} == {"api", "worker", "keeper"}
    assert re.search(r'^tollway_slots\{process="worker-\d+"\} 1000\.0$', shown, re.MULTILINE)
    assert re.search(r'^tollway_loop_lag_seconds_count\{process="keeper-\d+"\} [1-9]', shown, re.MULTILINE)
