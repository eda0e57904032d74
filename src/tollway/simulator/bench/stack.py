"""The system under test, started as a user would: `tollway up` on a project folder, beside simulated providers.

Everything lives in a fresh folder that goes when the stack stops; the processes are stopped politely, then by force.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tollway.processes import Child
from tollway.simulator.accounting import snapshot
from tollway.simulator.bench.asking import ask
from tollway.simulator.bench.processes import StackFailed, log_tail, start_program, stop_program, until_answers
from tollway.simulator.bench.project import Project
from tollway.simulator.bench.provider import Provider

_NOBODY = -1


@dataclass(frozen=True)
class StackOptions:
    """How to start: the `tollway` command, where scratch folders go, how many workers of how many slots.

    `project` says what is run on which routes, `provider` how the providers answer; `keep` leaves the folder with data
    and log where it is. With `autoscale`, "1..4" for one, so many workers come and go instead.
    """

    tollway: Sequence[str]
    scratch: Path
    workers: int = 1
    slots: int = 1000
    provider: dict[str, Any] = field(default_factory=lambda: {"latency_s": 0.05})
    project: Project = field(default_factory=Project)
    keep: bool = False
    autoscale: str = ""


@dataclass(frozen=True)
class Stack:
    """A running system: where it listens, its admin key, its folder, its processes."""

    folder: Path
    port: int
    api_key: str
    up: Child
    providers: Sequence[Provider]

    @property
    def data_dir(self) -> Path:
        """Where the record is kept."""
        return self.folder / "data"

    async def provider_calls(self) -> int:
        """How many calls the providers that run have billed so far."""
        totals = [await provider.totals() for provider in self.providers if provider.pid > 0]
        return sum(int(each["calls"]) for each in totals)

    async def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Ask the API as admin. Raises as `asking.ask` does."""
        return await ask(self.port, path, method, body, self.api_key)

    async def tenant_key(self, tenant: str) -> str:
        """A tenant of that name, and a key with which it submits and reads."""
        await self.ask(f"/v1/tenants/{tenant}", "PUT", {})
        made = await self.ask(f"/v1/tenants/{tenant}/keys", "POST", {"name": "bench", "scopes": ["submit", "read"]})
        return str(made["key"])

    def check(self) -> None:
        """Raises StackFailed when a process has ended that should not have."""
        if self.up.returncode is not None:
            raise StackFailed(f"tollway up ended with {self.up.returncode}\n{log_tail(self.folder)}")
        for provider in self.providers:
            provider.check()


@contextlib.asynccontextmanager
async def running(options: StackOptions) -> AsyncIterator[Stack]:
    """A fresh stack, ready for load; gone afterwards, its folder too. Raises StackFailed when it does not come up."""
    folder = fresh_folder(options.scratch)
    stack: Stack | None = None
    try:
        stack = _start(options, folder)
        for provider in stack.providers:
            await provider.start()
        await until_answers(lambda: stack.ask("/readyz"), stack.check, folder)
        yield stack
    finally:
        if stack is not None:
            await stop_program(stack.up)
            for provider in stack.providers:
                await provider.stop()
        for pid, _ in snapshot(_NOBODY, folder / "data").processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # a database that outlived its supervisor
        if options.keep:
            print(f"kept {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def fresh_folder(scratch: Path) -> Path:
    """A new folder in `scratch` for data that another user's server may have to reach."""
    folder = Path(tempfile.mkdtemp(prefix="tollway-bench-", dir=scratch))
    folder.chmod(0o755)  # the embedded server may run as another user
    return folder


def _start(options: StackOptions, folder: Path) -> Stack:
    """Start `tollway up`; the providers are still to be started."""
    project = options.project
    port, *provider_ports = _free_ports(1 + project.providers)
    key = f"tw_{secrets.token_hex(24)}"
    (folder / "bench_agents.py").write_text(project.agents, encoding="utf-8")
    (folder / "tollway.toml").write_text(project.toml(options.slots, provider_ports), encoding="utf-8")
    words = ["up", "--config", str(folder / "tollway.toml"), "--agents", "bench_agents", "--port", str(port)]
    words += ["--data-dir", str(folder / "data")]
    words += ["--autoscale", options.autoscale] if options.autoscale else ["--workers", str(options.workers)]
    up = start_program([*options.tollway, *words], folder, {"TOLLWAY_ADMIN_KEY": key})
    providers = [Provider(options.tollway, folder, each, options.provider) for each in provider_ports]
    return Stack(folder, port, key, up, providers)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as sockets:
        held = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
