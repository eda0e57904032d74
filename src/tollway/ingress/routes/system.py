"""What the process says of itself, the agents it knows, and its documentation."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from tollway.domain.errors import Problem
from tollway.ingress.docs_page import docs_page
from tollway.ingress.openapi import describe
from tollway.ingress.problems import retry_headers
from tollway.ingress.requests import answer, context, identify, query_of, refuse_unknown

router = APIRouter(tags=["system"])


@router.get("/healthz", **describe("healthz"))
async def healthz(request: Request) -> Response:
    """200 while the process lives, whatever else is broken."""
    return answer(200, {"status": "ok"})


@router.get("/readyz", **describe("readyz"))
async def readyz(request: Request) -> Response:
    """200 when the API accepts, the named agents are published and the configured workers are claiming."""
    found: dict[str, Any] = await request.app.state.readiness.look()
    if not found["ready"]:
        detail = f"Not ready: {'; '.join(found['missing'])}."
        raise Problem("not_ready", detail, fields=found, headers=retry_headers(1.0))
    return answer(200, found)


@router.get("/metrics", **describe("metrics"))
async def metrics(request: Request) -> Response:
    """The Prometheus text: this process' series as they stand, those of the others as they told in their last beat."""
    services = context(request).services
    await context(request).board.refresh_gauges()
    sync = services.sync
    others = {
        f"{process.role}-{process.id}": process.facts.get("metrics")
        for process in sync.processes
        if process.id != sync.process_id
    }
    text, content_type = services.metrics.render(f"api-{sync.process_id}", others)
    return Response(text, headers={"content-type": content_type})


@router.get("/v1/scaling", **describe("read_scaling"))
async def scaling(request: Request) -> Response:
    """The backlog that could run now, what is blocked and running, and the workers that wants: by lane, or of one.

    An admin key sees all tenants; who sees one tenant gets the same of its own work by itself.
    """
    caller = identify(request, "read")
    query = query_of(request)
    lane = query.pop("lane", None)
    refuse_unknown(query, "lane")
    if lane is not None:
        context(request).submissions.check_lane(lane)
    signal = await context(request).board.signal(caller.tenant)
    if lane is not None:
        return answer(200, signal.lanes[lane])
    lanes = list(signal.lanes.values())
    whole = {name: sum(getattr(one, name) for one in lanes) for name in ("runnable", "blocked", "running")}
    whole |= {"wanted_workers": signal.wanted_workers, "workers": signal.workers}
    return answer(200, {**whole, "items": lanes, "next": None})


@router.get("/v1/agents", **describe("list_agents"))
async def agents(request: Request) -> Response:
    """Every published version of every agent."""
    identify(request, "read")
    return answer(200, {"items": context(request).services.sync.snapshot.agents, "next": None})


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """The API's description."""
    return answer(200, request.app.openapi())


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The same for people, without anything from elsewhere."""
    return HTMLResponse(docs_page(request.app.openapi()))
