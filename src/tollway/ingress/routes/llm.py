"""The LLM path as all processes see it together, and what its calls cost."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from tollway.ingress.openapi import describe
from tollway.ingress.requests import answer, context, identify, query_of, refuse_unknown
from tollway.llm.board import shown_routes, tier_shares
from tollway.llm.breakers.shown import shown_dependencies

router = APIRouter(tags=["llm"])


@router.get("/v1/routes", **describe("list_routes"))
async def routes(request: Request) -> Response:
    """Every route: limits, what is leased and used, who waits, its breaker, latency and 429s, over all processes.

    `tiers` is how the calls fall on them, `dependencies` the breakers that tasks of agents feed. What other processes
    did is as old as their last beat.
    """
    identify(request, "read")
    refuse_unknown(query_of(request), "no parameters")
    services = context(request).services
    sync = services.sync
    others = [process.facts.get("routes") or {} for process in sync.processes if process.id != sync.process_id]
    items = shown_routes(services.options.routes, [*others, services.route_facts()])
    dependencies = shown_dependencies(process.facts.get("dependencies") for process in sync.processes)
    return answer(200, {"items": items, "tiers": tier_shares(items), "dependencies": dependencies, "next": None})


@router.get("/v1/prices", **describe("list_prices"))
async def prices(request: Request) -> Response:
    """Every route with the price its calls are charged now, where that comes from, and when it changes next."""
    identify(request, "read")
    refuse_unknown(query_of(request), "no parameters")
    services = context(request).services
    found = await asyncio.to_thread(services.prices, services.clock.now())  # the bundled list takes a second to load
    return answer(200, found)
