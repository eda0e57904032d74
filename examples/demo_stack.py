"""A whole Tollway on this machine for the length of a demo: started, waited for, stopped, its log kept for trouble."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tollway.client import ApiError, Client, ClientOptions, Unreachable

ROOT = Path(__file__).resolve().parent.parent
TOLLWAY = Path(sys.executable).parent / "tollway"
PROVIDERS = {
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL", ("gpt-4.1-nano", "gpt-4.1-mini", "gpt-4.1")),
    "anthropic": (
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_BASE_URL",
        ("claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-1"),
    ),
}
_TIERS = ("fast", "capable", "powerful")
_READY_TIMEOUT_S = 45.0
_STOP_TIMEOUT_S = 40.0
_LOG_LINES = 30
_SIM_PRICES = {"fast": (0.10, 0.40), "capable": (0.40, 1.60), "powerful": (2.00, 8.00)}
"""Dollars per million tokens, in and out: what a vendor asks for a small, a middle and a large model."""

_SIM_CONFIG = {
    "latency_s": {"mean": 0.3, "law": "lognormal", "cv": 0.4},
    "output_tokens": {"mean": 60, "law": "uniform", "cv": 0.4},
    "models": {
        f"sim-{tier}": {"prices": {"input_usd_per_mtok": asked, "output_usd_per_mtok": answered}}
        for tier, (asked, answered) in _SIM_PRICES.items()
    },
}


class StackFailed(Exception):
    """The system did not come up or went away; the message says how."""


class Stack:
    """`tollway up` as a child process, in a folder of its own: its settings as TOML, the module of its agents."""

    def __init__(self, settings: str, agents: str = "examples.agents") -> None:
        self.agents = agents
        self.folder = Path(tempfile.mkdtemp(prefix="tollway-demo-"))
        self.folder.chmod(0o755)  # the database runs as another user when this is root
        self.data_dir = self.folder / "data"
        self.log = self.folder / "tollway.log"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._config = self.folder / "tollway.toml"
        self._config.write_text(settings)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """What is run, as one could type it."""
        port = self.url.rpartition(":")[2]
        flags = ["--config", str(self._config), "--data-dir", str(self.data_dir), "--port", port]
        return [str(TOLLWAY), "up", "--agents", self.agents, *flags, "--json"]

    @property
    def sim_url(self) -> str | None:
        """Where the simulated provider is, as `tollway up` says in its first line of JSON; None if there is none."""
        for line in self.log.read_bytes().splitlines():
            try:
                said = msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue
            if isinstance(said, dict) and "provider_sim" in said:
                found: str | None = said["provider_sim"]
                return found
        return None

    def start(self) -> None:
        """Start it. Ctrl-C reaches the demo alone, which then stops it in order."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOLLWAY_")}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    async def ready(self, tell: Callable[[str], None]) -> float:
        """Wait until it is ready, telling what it waits for; the seconds it took. Raises StackFailed."""
        began = time.monotonic()
        async with Client(self.url, "", options=ClientOptions(retry_for_s=0, timeout_s=2)) as probe:
            while True:
                try:
                    await probe.call("GET", "/readyz")
                    return time.monotonic() - began
                except Unreachable:
                    tell("the database and the API")
                except ApiError as error:
                    tell(", ".join(error.document.get("missing") or [error.detail]))
                self.check()
                if time.monotonic() - began > _READY_TIMEOUT_S:
                    raise StackFailed(f"not ready after {_READY_TIMEOUT_S:.0f} s")
                await asyncio.sleep(0.1)

    def check(self) -> None:
        """Raises StackFailed when the process has ended."""
        code = self._process.poll() if self._process is not None else None
        if code is not None:
            raise StackFailed(f"`tollway up` ended with exit code {code}")

    def admin_key(self) -> str:
        """The admin key that `tollway up` made."""
        return (self.data_dir / "admin.key").read_text().strip()

    def log_tail(self) -> str:
        """The last lines of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        except FileNotFoundError:
            return ""

    async def stop(self) -> int | None:
        """Drain and stop everything; the exit code, or None if it was never started or had to be killed."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(process.wait, _STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None

    def remove(self) -> None:
        """Remove its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


async def simulate(url: str) -> None:
    """Give the simulated provider at `url` a model's pace. Raises ApiError, Unreachable."""
    async with Client(url, "", options=ClientOptions(retry_for_s=2)) as sim:
        await sim.call("POST", "/sim/config", _SIM_CONFIG)


async def provider_totals(url: str) -> dict[str, Any]:
    """What the simulated provider at `url` itself counted. Raises ApiError, Unreachable."""
    async with Client(url, "", options=ClientOptions(retry_for_s=2)) as sim:
        ledger = await sim.call("GET", "/sim/ledger", query=[("totals", "1")])
    totals: dict[str, Any] = ledger["totals"]
    return totals


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def settings(provider: str, slots: int) -> str:
    """The settings as TOML: slots; with the simulated provider its prices, else a route for each tier."""
    lines = ["[worker]", f"slots = {slots}", ""]
    if provider == "sim":
        for tier, (asked, answered) in _SIM_PRICES.items():
            lines += [
                f'[prices."sim/sim-{tier}"]',
                f"input_usd_per_mtok = {asked}",
                f"output_usd_per_mtok = {answered}",
            ]
    else:
        key_env, url_env, models = PROVIDERS[provider]
        base_url = os.environ.get(url_env, "")
        lines += [f"[providers.{provider}]", f'kind = "{provider}"', f'api_key_env = "{key_env}"']
        lines += [f"base_url = {json.dumps(base_url)}"] if base_url else []
        for tier, model in zip(_TIERS, models, strict=True):
            lines += ["", "[[routes]]", f'name = "{provider}-{tier}"', f'tier = "{tier}"', f'provider = "{provider}"']
            lines += [f'model = "{model}"', "latency_p99_max_s = 30"]
    return "\n".join(lines) + "\n"
