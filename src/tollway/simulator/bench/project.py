"""What `tollway up` is given: agents, routes to the simulated providers, and the settings a scenario needs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ONE_CALL, TEN_CALLS = "bench_one_call", "bench_ten_calls"
_LATENCY_MAX_S = 120

AGENTS = f'''"""The agents the benchmark runs."""

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


@dataclass(frozen=True)
class RouteSetup:
    """A route to the provider of that number; `keys` are further keys of `[[routes]]`. Its name is its model's.

    `price` is what a model costs, as `[prices]` has it.
    """

    model: str = "sim-fast"
    tier: str = "fast"
    provider: int = 0
    keys: Mapping[str, object] = field(default_factory=dict)
    price: Mapping[str, object] = field(
        default_factory=lambda: {"input_usd_per_mtok": 0.15, "output_usd_per_mtok": 0.60}
    )


@dataclass(frozen=True)
class Project:
    """Agents, routes, and settings by section, `[llm]` for one."""

    agents: str = AGENTS
    routes: Sequence[RouteSetup] = (RouteSetup(),)
    sections: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def providers(self) -> int:
        """How many providers the routes lead to."""
        return 1 + max(route.provider for route in self.routes)

    def toml(self, slots: int, ports: Sequence[int]) -> str:
        """The settings file; `ports` are the providers'."""
        sections = {"worker": {"slots": slots}, "llm": {"timeout_s": 240}}
        parts = [_table(f"[{name}]", {**sections.get(name, {}), **keys}) for name, keys in self.sections.items()]
        parts += [_table(f"[{name}]", keys) for name, keys in sections.items() if name not in self.sections]
        for number, port in enumerate(ports):
            address = f"http://127.0.0.1:{port}/v1"
            parts.append(_table(f"[providers.sim{number}]", {"kind": "openai", "base_url": address}))
        for route in self.routes:
            provider = f"sim{route.provider}"
            keys = {"name": route.model, "tier": route.tier, "provider": provider, "model": route.model}
            parts.append(_table("[[routes]]", {**keys, "latency_p99_max_s": _LATENCY_MAX_S, **route.keys}))
            parts.append(_table(f'[prices."{provider}/{route.model}"]', route.price))
        return "\n".join(parts)


def _table(head: str, keys: Mapping[str, object]) -> str:
    """A table of scalars and lists of them, which TOML writes as JSON does."""
    return "\n".join((head, *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""))
