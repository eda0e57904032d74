"""`tollway up` in a folder of its own beside a provider whose ledger outlives it, and a steady load of runs."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from checks import faults
from history import History, read_history
from wire import Cut, ask, free_port

from tollway.domain.ids import floor_at
from tollway.record.server import running_url

ADMIN_KEY = "tw_chaos_0123456789abcdefghijklmnopqrs"
READY_S = 60.0
_HERE = Path(__file__).parent

_CONFIG = """[worker]
{worker}

[providers.sim]
kind = "openai"
base_url = "http://127.0.0.1:{sim_port}/v1"

[[routes]]
name = "sim-fast"
tier = "fast"
provider = "sim"
model = "sim-fast"

[prices."sim/sim-fast"]
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.60
"""
_SECOND = """
[providers.second]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"

[[routes]]
name = "second-fast"
tier = "fast"
provider = "second"
model = "sim-fast"
priority = 2

[prices."second/sim-fast"]
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.60
"""
HANG_S = 0.5
"""So long a provider hangs before it dies: every call that it answers is in its ledger by then."""


@dataclass(slots=True)
class Stack:
    """A running `tollway up` and its providers by port. `began` is the least id of a run of this test.

    `dead_calls` are the rows of providers that are no more.
    """

    folder: Path
    data_dir: Path
    port: int
    sim_port: int
    workers: int
    up: subprocess.Popen[bytes]
    providers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    dead_calls: list[dict[str, Any]] = field(default_factory=list)
    began: UUID = field(default_factory=lambda: floor_at(time.time()))

    # what it is made of

    def pids(self, command: str) -> list[int]:
        """The processes of ours that run `tollway COMMAND`, as their command lines say."""
        return [pid for pid in descendants(self.up.pid) if command in _arguments(pid)[2:5]]

    def postmaster(self) -> int:
        """PostgreSQL's first process."""
        return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])

    def everything(self) -> list[int]:
        """All that belongs to it: descendants, and PostgreSQL by the folder it stands in."""
        return sorted({*descendants(self.up.pid), *_standing_in(self.data_dir / "postgres")})

    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "up.log").read_text(errors="replace")

    # talking to it

    async def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """Ask the API as admin. Raises Cut."""
        return await ask(self.port, method, path, body, {"authorization": f"Bearer {ADMIN_KEY}", **(headers or {})})

    async def submit(self, agent: str, key: str, again_for_s: float = 30.0) -> UUID:
        """Submit a run under a key, again and again until it is answered 202."""
        body = {"agent": agent, "input": {"tag": key}}
        deadline = time.monotonic() + again_for_s
        while True:
            said: Any = None
            with contextlib.suppress(Cut):
                said = await self.ask("POST", "/v1/runs", body, {"idempotency-key": key})
                if said.status == 202:
                    return UUID(said.body["id"])
                assert said.status in (429, 503), said
            assert time.monotonic() < deadline, f"not accepted in {again_for_s} s: {said}"
            await asyncio.sleep(0.05)

    async def load(self, agents: Sequence[str], runs_per_s: float, seconds: float, tag: str = "") -> list[UUID]:
        """Submit runs at a steady rate; the ids of all, once all were answered 202. Each load has a tag of its own."""
        tasks = []
        began, stem = time.monotonic(), self.began.hex[:12] + tag
        for number in range(int(runs_per_s * seconds)):
            await asyncio.sleep(max(0.0, began + number / runs_per_s - time.monotonic()))
            tasks.append(asyncio.create_task(self.submit(agents[number % len(agents)], f"{stem}-{number}")))
        return list(await asyncio.gather(*tasks))

    @asynccontextmanager
    async def record(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to the record, to look."""
        url = running_url(self.data_dir)
        assert url is not None, "no PostgreSQL runs"
        connection = await asyncpg.connect(url)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def until(self, what: str, done: Callable[[], Any], within_s: float = 30.0) -> Any:
        """Wait until `done()` (awaited if it must be) says something true."""
        deadline = time.monotonic() + within_s
        while True:
            with contextlib.suppress(Cut, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                found = done()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return found
            assert time.monotonic() < deadline, f"{what}: not within {within_s} s\n{self.log()[-3000:]}"
            await asyncio.sleep(0.02)

    async def until_ready(self) -> None:
        """Wait until /readyz answers 200."""

        async def ready() -> bool:
            assert self.up.poll() is None, self.log()[-3000:]
            return bool((await ask(self.port, "GET", "/readyz")).status == 200)

        await self.until("ready", ready, READY_S)

    async def until_rest(self, within_s: float = 60.0) -> None:
        """Wait until no run of this test lives."""

        async def at_rest() -> bool:
            async with self.record() as record:
                query = "select count(*) from run where id >= $1 and state is null"
                return bool(await record.fetchval(query, self.began) == 0)

        await self.until("all runs have ended", at_rest, within_s)

    async def calls(self, port: int | None = None) -> list[dict[str, Any]]:
        """The rows of a provider's ledger, the first one's if none is named."""
        calls: list[dict[str, Any]] = []
        path = "/sim/ledger?after={}&limit=5000"
        while page := (await ask(port or self.sim_port, "GET", path.format(len(calls)))).body["rows"]:
            calls += page
        return calls

    async def provider_dies(self) -> None:
        """The first provider answers nothing new any more, and is killed with the calls that wait for it.

        What it has billed is known to the last call: without the pause, some would be in a ledger that is gone.
        """
        await ask(self.sim_port, "POST", "/sim/config", {"latency_s": 60})
        await asyncio.sleep(HANG_S)
        self.dead_calls += await self.calls()
        provider = self.providers.pop(self.sim_port)
        provider.kill()
        provider.wait()

    async def history(self) -> History:
        """What is left of this test's runs."""
        calls = [*self.dead_calls]
        for port in self.providers:
            calls += await self.calls(port)
        async with self.record() as record:
            return await read_history(record, calls, self.folder / "executions", self.began)

    async def history_without_faults(self, accepted: Sequence[UUID]) -> History:
        """The same, once at rest; every promise held, and every accepted run is on record and succeeded."""
        await self.until_rest()
        history = await self.history()
        found = faults(history)
        assert not found, "\n".join(found[:20])
        missing = set(accepted) - history.runs.keys()
        assert not missing, f"accepted, and not on record: {missing}"
        ends = {run_id: history.runs[run_id].row for run_id in accepted}
        unwell = {run_id: row for run_id, row in ends.items() if row.state != "succeeded"}
        assert not unwell, unwell
        return history

    def signal(self, pid: int, number: int) -> None:
        """Signal a process, which may have ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.up.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.up.wait, 60)


@asynccontextmanager
async def running(
    folder: Path,
    data_dir: Path,
    workers: int = 1,
    latency_s: float = 0.05,
    *,
    second: bool = False,
    autoscale: str = "",
    **settings: float,
) -> AsyncIterator[Stack]:
    """Everything started and ready, and gone afterwards. `settings` are keys of [worker].

    With `second`, another provider serves the tier when the first cannot; with `autoscale`, workers come and go.
    """
    ports = [free_port() for _ in range(2 if second else 1)]
    sims = {port: _spawn(["provider-sim", "--port", str(port)], folder, f"sim{port}.log") for port in ports}
    config = folder / "tollway.toml"
    worker = "\n".join(f"{key} = {value}" for key, value in settings.items())
    config.write_text(_CONFIG.format(worker=worker, sim_port=ports[0]) + (_SECOND.format(port=ports[-1]) * second))
    stack: Stack | None = None
    try:
        stack = start(folder, data_dir, ports[0], workers, autoscale)
        stack.providers = sims
        for port in ports:
            await stack.until("the provider listens", lambda port=port: ask(port, "GET", "/sim/config"))
            await ask(port, "POST", "/sim/config", {"latency_s": latency_s, "output_tokens": 5})
        await stack.until_ready()
        yield stack
    finally:
        if stack is not None:
            await _end(stack)
        for sim in sims.values():
            sim.kill()
            sim.wait()


def start(folder: Path, data_dir: Path, sim_port: int, workers: int, autoscale: str = "") -> Stack:
    """`tollway up` on a folder whose settings are written already."""
    port = free_port()
    arguments = ["up", "--agents", "explorer.agents", "--agents", "troublemakers", "--json"]
    arguments += ["--autoscale", autoscale] if autoscale else ["--workers", str(workers)]
    arguments += ["--port", str(port), "--data-dir", str(data_dir)]
    return Stack(folder, data_dir, port, sim_port, workers, _spawn(arguments, folder, "up.log"))


def _spawn(arguments: list[str], folder: Path, log: str) -> subprocess.Popen[bytes]:
    env = {
        **os.environ,
        "PYTHONPATH": str(_HERE),
        "TOLLWAY_ADMIN_KEY": ADMIN_KEY,
        "EXPLORER_EXECUTIONS": str(folder / "executions"),
    }
    with (folder / log).open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tollway", *arguments], cwd=folder, env=env, stdout=output, stderr=output
        )


async def _end(stack: Stack) -> None:
    """Stop it politely; leave nothing behind in any case."""
    pids = stack.everything()
    if stack.up.poll() is None:
        for pid in pids:
            stack.signal(pid, signal.SIGCONT)
        stack.up.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(stack.up.wait, 50)
        except subprocess.TimeoutExpired:
            stack.up.kill()
            stack.up.wait()
    for pid in pids:
        if str(stack.data_dir) in " ".join(_arguments(pid)) or "tollway" in _arguments(pid):
            stack.signal(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Every process below `pid`."""
    parents: dict[int, int] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parents[int(entry)] = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
    found, below = [], {pid}
    while below:
        below = {child for child, parent in parents.items() if parent in below}
        found += sorted(below)
    return found


def alive(pid: int) -> bool:
    """Whether a process lives and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _standing_in(folder: Path) -> list[int]:
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{entry}/cwd").resolve() == folder:
                found.append(int(entry))
    return found


Start = Callable[..., AbstractAsyncContextManager[Stack]]
"""What the fixture `up` gives: a call that starts `tollway up` as a context."""
