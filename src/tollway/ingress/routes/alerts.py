"""Alerts: what was told of budgets, spending and routes, newest first."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from tollway.domain.alerts import AlertKind
from tollway.ingress.auth import Caller
from tollway.ingress.filters import moment_of
from tollway.ingress.openapi import describe
from tollway.ingress.problems import invalid
from tollway.ingress.requests import answer, context, id_page_of, identify, query_of, refuse_unknown
from tollway.record.alerts import AlertFilter, list_alerts

router = APIRouter(tags=["alerts"])
_OPEN = {"true": True, "false": False}


@router.get("/v1/alerts", **describe("list_alerts"))
async def read_all(request: Request) -> Response:
    """Alerts, newest first; a key without `admin` sees its own tenant's."""
    caller = identify(request, "read")
    query = query_of(request)
    limit, before = id_page_of(query)
    wanted = _filter(query, caller)
    found = await list_alerts(context(request).services.database, wanted, before, limit + 1)
    shown = found[:limit]
    return answer(200, {"items": shown, "next": str(shown[-1]["id"]) if len(found) > limit else None})


def _filter(query: dict[str, str], caller: Caller) -> AlertFilter:
    """What is asked for, within what the caller may see. Raises Problem `invalid_input`, `forbidden`."""
    tenant, kind = query.pop("tenant", None), query.pop("kind", None)
    since, only_open = query.pop("since", None), query.pop("open", "false")
    refuse_unknown(query, "tenant, kind, since, open, limit, cursor")
    if kind is not None and kind not in set(AlertKind):
        raise invalid("kind", f"must be one of {', '.join(AlertKind)}")
    if only_open not in _OPEN:
        raise invalid("open", "must be true or false")
    moment = None if since is None else moment_of(since, "since")
    return AlertFilter(caller.narrowed(tenant), kind, moment, _OPEN[only_open])
