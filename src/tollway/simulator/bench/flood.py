"""More work than three routes can take: tenants, agents and clients of the limits scenario, its providers' limits."""

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec

from tollway.simulator.bench.harness import BenchOptions, Watcher
from tollway.simulator.bench.job import Job
from tollway.simulator.bench.project import Project, RouteSetup
from tollway.simulator.bench.stack import Stack
from tollway.simulator.bench.utilisation import Limit
from tollway.simulator.load.plan import LoadPlan, LoadResult

WORKERS = 4
SLOTS = 220
REQUESTS = Limit("sim-requests", 12_000)
TOKENS = Limit("sim-tokens", 600_000, tokens=True)
SMALL = Limit("sim-small", 600)
LIMITS = (REQUESTS, TOKENS, SMALL)
CALLS_PER_RUN = 5
_SIZES = (20, 100, 400, 1500)
_POLL_S = 0.5
_SERIALS = 50_000_000

_AGENTS = f'''"""Agents that want more than their routes have: of many calls, of calls of many sizes."""

import zlib

import tollway

SIZES = {_SIZES}


async def ask(run: tollway.Run, ticket: dict[str, str], calls: int, max_tokens: int) -> int:
    for turn in range(calls):
        await run.llm(f"Turn {{turn}} with this customer: {{ticket['text']}}", max_tokens=max_tokens, cache="off")
    return calls


@tollway.agent(name="flood_one", tier="requests", lane="standard", timeout=300)
async def flood_one(run: tollway.Run, ticket: dict[str, str]) -> int:
    return await ask(run, ticket, {CALLS_PER_RUN}, 20)


@tollway.agent(name="flood_two", tier="requests", lane="standard", timeout=300)
async def flood_two(run: tollway.Run, ticket: dict[str, str]) -> int:
    return await ask(run, ticket, {CALLS_PER_RUN}, 20)


@tollway.agent(name="mixed", tier="tokens", lane="standard", timeout=300)
async def mixed(run: tollway.Run, ticket: dict[str, str]) -> int:
    return await ask(run, ticket, 1, SIZES[zlib.crc32(ticket["text"].encode()) % len(SIZES)])


@tollway.agent(name="small", tier="small", lane="standard", timeout=300)
async def small(run: tollway.Run, ticket: dict[str, str]) -> int:
    return await ask(run, ticket, 1, 20)
'''


@dataclass(frozen=True)
class Flood:
    """One tenant's clients of one agent."""

    tenant: str
    agent: str
    clients: int


FAIR = (
    Flood("loud", "flood_one", 240),
    Flood("loud", "flood_two", 60),
    Flood("quiet", "flood_one", 60),
    Flood("quiet", "flood_two", 60),
)
"""Four flows of one route, of which each has more than its quarter to do all the time, and one four times as much."""

FLOODS = (*FAIR, Flood("loud", "mixed", 80), Flood("loud", "small", 80))


def project() -> Project:
    """The agents, and a route for each limit."""
    routes = []
    for limit in LIMITS:
        keys = {"tpm" if limit.tokens else "rpm": int(limit.per_min)}
        routes.append(RouteSetup(limit.model, limit.model.removeprefix("sim-"), 0, keys))
    return Project(_AGENTS, tuple(routes))


def provider() -> dict[str, Any]:
    """True token buckets of one second's depth, one for each model."""
    models = {limit.model: {"tpm" if limit.tokens else "rpm": limit.per_min, "bucket_s": 1.0} for limit in LIMITS}
    return {"models": models}


async def flood(
    options: BenchOptions, stack: Stack, watcher: Watcher, during: Any, seconds: tuple[float, float]
) -> list[LoadResult]:
    """All floods at once: seconds of warm-up, seconds to measure. `during` begins with the window."""
    keys = {tenant: await stack.tenant_key(tenant) for tenant in dict.fromkeys(each.tenant for each in FLOODS)}
    jobs = []
    for number, each in enumerate(FLOODS):
        plan = LoadPlan(
            port=stack.port,
            api_key=keys[each.tenant],
            agent=each.agent,
            texts=list(options.texts),
            clients=each.clients,
            warmup_s=seconds[0],
            measure_s=seconds[1],
            poll_s=_POLL_S,
            first_serial=number * _SERIALS,
            keep_runs=True,
        )
        jobs.append(Job(stack, plan, watcher, None if number else during))
    results = await asyncio.gather(*(job.run() for job in jobs))
    return [msgspec.convert(result, LoadResult) for result in results]
