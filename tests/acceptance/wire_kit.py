"""A Tollway with a provider of each form behind it, and the vendors' own SDKs before it."""

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import asyncpg
import openai
from stack_kit import ADMIN_KEY, TOLLWAY, Http, Stack, environ_of, free_port, plain_environ, until

PROVIDERS = {
    "fast": 'kind = "openai"\nbase_url = "{}/v1"',
    "thoughtful": 'kind = "openai"\napi = "responses"\nbase_url = "{}/v1"',
    "kind": 'kind = "anthropic"\nbase_url = "{}"',
}
"""By the tier they serve. A tier's model is called `m-` and its name; `embed` is served by the first as well."""

_ROUTE = """
[[routes]]
name = "{tier}"
tier = "{tier}"
provider = "{provider}"
model = "m-{tier}"
output_tokens_max = 4000

[prices."{provider}/m-{tier}"]
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.60
"""


def settings(sim_url: str, more: str = "") -> str:
    """The settings of such a Tollway."""
    parts = ["[worker]\nslots = 50\n", more]
    parts += [f"[providers.p-{tier}]\n{text.format(sim_url)}\n" for tier, text in PROVIDERS.items()]
    parts += [_ROUTE.format(tier=tier, provider=f"p-{tier}") for tier in PROVIDERS]
    parts.append(_ROUTE.format(tier="embed", provider="p-fast"))
    return "\n".join(parts)


class Provider:
    """A simulated provider in a process of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [TOLLWAY, "provider-sim", "--port", str(self.port)]
        self._process = subprocess.Popen(command, env=plain_environ(), stdout=subprocess.DEVNULL)
        self._http = Http(self.port, None)
        until(self._answers, "the simulated provider")

    def pace(self, **config: Any) -> None:
        """Change how it answers; what is not named is quick and short."""
        quick: dict[str, Any] = {"latency_s": 0.0, "tokens_per_s": 0, "output_tokens": 8}
        quick |= config
        quick["fault_rates"] = {"status_429": 0.0, "status_500": 0.0, **config.get("fault_rates", {})}
        assert self._http.post("/sim/config", quick).status == 200

    def totals(self) -> dict[str, Any]:
        """What it billed in all, once nothing is in flight."""
        return until(
            lambda: (totals := self._http.get("/sim/ledger").json["totals"])["in_flight"] == 0 and totals, "its calls"
        )

    def last(self) -> dict[str, Any]:
        """The row of its last call."""
        rows: list[dict[str, Any]] = self._http.get("/sim/ledger").json["rows"]
        return rows[-1]

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self._http.get("/sim/config").status == 200
        return False


class Books:
    """Tollway's own record of money, read from its database."""

    def __init__(self, stack: Stack) -> None:
        self._url = environ_of(stack.pids("tollway api")[0])["TOLLWAY_DATABASE__URL"]

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """The rows of a query."""

        async def ask() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self._url)
            try:
                return [dict(row) for row in await connection.fetch(query, *values)]
            finally:
                await connection.close()

        return asyncio.run(ask())

    def settled(self) -> list[dict[str, Any]]:
        """Every entry, once no call is under way."""
        until(lambda: not self.rows("select from wire_call"), "the end of every call")
        return self.rows("select * from ledger order by call_id")


_made: list[openai.OpenAI | anthropic.Anthropic] = []


def gpt_at(base_url: str, key: str) -> openai.OpenAI:
    """OpenAI's SDK, which does not ask again by itself."""
    made = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    _made.append(made)
    return made


def claude_at(base_url: str, key: str) -> anthropic.Anthropic:
    """Anthropic's SDK, which does not ask again by itself."""
    made = anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0)
    _made.append(made)
    return made


def clients(port: int, key: str = ADMIN_KEY) -> tuple[openai.OpenAI, anthropic.Anthropic]:
    """Both SDKs, as a user points them at Tollway."""
    return gpt_at(f"http://127.0.0.1:{port}/v1", key), claude_at(f"http://127.0.0.1:{port}", key)


@contextlib.contextmanager
def wired(folder: Path, *agents: str, more: str = "") -> Iterator[tuple[Stack, Provider]]:
    """The whole of it, ready."""
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    provider = Provider()
    stack = Stack(folder, *agents, settings=settings(provider.url, more))
    try:
        stack.ready()
        provider.pace()
        yield stack, provider
        assert stack.stop() == 0, stack.tail()
    finally:
        for client in _made:
            client.close()
        _made.clear()
        stack.stop()
        provider.stop()
