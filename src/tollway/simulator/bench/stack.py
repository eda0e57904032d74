"""The system under test, started as a user would: `tollway up` on a project folder, beside a `tollway provider-sim`.

Everything lives in a fresh folder that goes when the stack stops; the processes are stopped politely, then by force.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tollway.domain.errors import TollwayError
from tollway.processes import Child, spawn
from tollway.simulator.accounting import snapshot
from tollway.simulator.load.wire import BadAnswer, read_answer

ONE_CALL, TEN_CALLS = "bench_one_call", "bench_ten_calls"
_NOBODY = -1
_READY_S = 60.0
_STOP_S = 45.0
_ASK_S = 10.0
_LOG_TAIL_BYTES = 3000

_AGENTS = f'''"""The agents the benchmark runs."""

import tollway


@tollway.agent(name="{ONE_CALL}", tier="fast", lane="standard", timeout=300)
async def one_call(run: tollway.Run, ticket: dict[str, str]) -> dict[str, str]:
    reply = await run.llm(f"Which team should answer this customer? {{ticket['text']}}", max_tokens=20, cache="off")
    return {{"text": reply.text}}


@tollway.agent(name="{TEN_CALLS}", tier="fast", lane="standard", timeout=300)
async def ten_calls(run: tollway.Run, ticket: dict[str, str]) -> dict[str, str]:
    for turn in range(10):
        reply = await run.llm(f"Turn {{turn}} with this customer: {{ticket['text']}}", max_tokens=20, cache="off")
    return {{"text": reply.text}}
'''

_CONFIG = """[worker]
slots = {slots}

[llm]
timeout_s = 240

[providers.sim]
kind = "openai"
base_url = "http://127.0.0.1:{provider_port}/v1"

[[routes]]
name = "sim-fast"
tier = "fast"
provider = "sim"
model = "sim-fast"
latency_p99_max_s = 240

[prices."sim/sim-fast"]
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.60
"""


class StackFailed(TollwayError):
    """A process of the system under test did not come up, or ended by itself; the message holds the end of its log."""


@dataclass(frozen=True)
class StackOptions:
    """How to start: the `tollway` command, where scratch folders go, how many workers of how many slots.

    `keep` leaves the folder with data and log where it is.
    """

    tollway: Sequence[str]
    scratch: Path
    workers: int = 1
    slots: int = 1000
    provider_latency_s: float = 0.05
    keep: bool = False


@dataclass(frozen=True)
class Stack:
    """A running system: where it listens, its admin key, its folder, its processes."""

    folder: Path
    port: int
    provider_port: int
    api_key: str
    up: Child
    provider: Child

    @property
    def data_dir(self) -> Path:
        """Where the record is kept."""
        return self.folder / "data"

    async def provider_calls(self) -> int:
        """How many calls the provider has billed so far."""
        document: dict[str, Any] = msgspec.json.decode(await _ask(self.provider_port, "/sim/ledger?limit=1"))
        return int(document["totals"]["calls"])

    def check(self) -> None:
        """Raises StackFailed when one of the two has ended."""
        for name, process in (("tollway up", self.up), ("tollway provider-sim", self.provider)):
            if process.returncode is not None:
                raise StackFailed(f"{name} ended with {process.returncode}\n{_log_tail(self.folder)}")


@contextlib.asynccontextmanager
async def running(options: StackOptions) -> AsyncIterator[Stack]:
    """A fresh stack, ready for load; gone afterwards, its folder too. Raises StackFailed when it does not come up."""
    folder = _fresh_folder(options.scratch)
    processes: list[Child] = []
    try:
        yield await _start(options, folder, processes)
    finally:
        for process in reversed(processes):
            await _stop(process)
        for pid, _ in snapshot(_NOBODY, folder / "data").processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # a database that outlived its supervisor
        if options.keep:
            print(f"kept {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _fresh_folder(scratch: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tollway-bench-", dir=scratch))
    folder.chmod(0o755)  # the embedded server may run as another user, who has to reach its data through here
    return folder


async def _start(options: StackOptions, folder: Path, processes: list[Child]) -> Stack:
    port, provider_port = _free_ports(2)
    key = f"tw_{secrets.token_hex(24)}"
    (folder / "bench_agents.py").write_text(_AGENTS, encoding="utf-8")
    config = _CONFIG.format(slots=options.slots, provider_port=provider_port)
    (folder / "tollway.toml").write_text(config, encoding="utf-8")
    (folder / "provider.toml").write_text(f"latency_s = {options.provider_latency_s}\n", encoding="utf-8")
    environment = {**os.environ, "TOLLWAY_ADMIN_KEY": key}
    provider_words = ["provider-sim", "--port", str(provider_port), "--config", str(folder / "provider.toml")]
    up_words = ["up", "--config", str(folder / "tollway.toml"), "--agents", "bench_agents", "--port", str(port)]
    up_words += ["--data-dir", str(folder / "data"), "--workers", str(options.workers)]
    for words in (provider_words, up_words):
        processes.append(_spawn([*options.tollway, *words], folder, environment))
    provider, up = processes
    stack = Stack(folder, port, provider_port, key, up, provider)
    await _until_ready(stack, provider_port, "/sim/ledger?limit=1")
    await _until_ready(stack, port, "/readyz")
    return stack


def _spawn(command: list[str], folder: Path, environment: dict[str, str]) -> Child:
    with (folder / "log.txt").open("ab") as log:
        try:
            return spawn(command, death_signal=signal.SIGTERM, env=environment, cwd=folder, output=log)
        except OSError as error:
            raise StackFailed(f"cannot start {command[0]}: {error}") from error


async def _until_ready(stack: Stack, port: int, path: str) -> None:
    stop = time.monotonic() + _READY_S
    while True:
        stack.check()
        try:
            await _ask(port, path)
            return
        except (OSError, BadAnswer, TimeoutError) as error:
            if time.monotonic() > stop:
                reason = f"port {port} was not ready after {_READY_S:.0f} s ({error})"
                raise StackFailed(f"{reason}\n{_log_tail(stack.folder)}") from error
        await asyncio.sleep(0.05)


async def _ask(port: int, path: str) -> bytes:
    """The body of a GET that answers 200. Raises OSError, TimeoutError or BadAnswer for anything else."""
    async with asyncio.timeout(_ASK_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            data = b""
            while (answer := read_answer(data)) is None:
                more = await reader.read(1 << 20)
                if not more:
                    raise BadAnswer("the connection ended early")
                data += more
        finally:
            writer.close()
    if answer.status != 200:
        raise BadAnswer(f"{path} answered {answer.status}: {answer.body[:300].decode('utf-8', 'replace')}")
    return answer.body


async def _stop(process: Child) -> None:
    process.send(signal.SIGTERM)
    if await process.wait_at_most(_STOP_S) is None:
        process.kill()
        await process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as sockets:
        held = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]


def _log_tail(folder: Path) -> str:
    try:
        text = (folder / "log.txt").read_bytes()[-_LOG_TAIL_BYTES:]
    except OSError:
        return ""
    return text.decode("utf-8", "replace")
