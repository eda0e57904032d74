"""The budgets of a tenant; a change is answered when every API process holds it."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from fastapi import APIRouter, Request
from starlette.responses import Response

from tollway.domain.budgets import Budget
from tollway.ingress.bodies import check_content_type
from tollway.ingress.budget_bodies import budget_document, check_budgets, decode_budgets, settings_document
from tollway.ingress.conditional import agreed, entity_tag
from tollway.ingress.openapi import describe
from tollway.ingress.problems import invalid
from tollway.ingress.requests import answer, context, identify, query_of, read_bytes, refuse_unknown
from tollway.record.budgets import BudgetUse, put_budgets, read_budget_use
from tollway.record.keys import unknown_tenant
from tollway.record.spending import BurnRow, read_burns
from tollway.spend.burn import Burn, forecast
from tollway.spend.periods import FOREVER, span

router = APIRouter(tags=["tenants"])


@router.get("/v1/tenants/{tenant}/budgets", **describe("list_budgets"))
async def list_budgets(request: Request) -> Response:
    """A tenant's budgets as they stand; a key without `admin` sees its own tenant's."""
    caller = identify(request, "read")
    refuse_unknown(query_of(request), "no parameters")
    tenant = request.path_params["tenant"]
    if tenant not in context(request).services.sync.snapshot.tenants or not caller.may_see(tenant):
        raise unknown_tenant(tenant[:64])
    return await _list(request, tenant)


@router.put("/v1/tenants/{tenant}/budgets", **describe("put_budgets"))
async def replace_budgets(request: Request) -> Response:
    """Replace the budgets of a tenant."""
    identify(request, "admin")
    services = context(request).services
    snapshot, tenant = services.sync.snapshot, request.path_params["tenant"]
    if tenant not in snapshot.tenants:
        raise invalid("tenant", f"there is no tenant {tenant[:64]!r}; an admin key makes one with PUT /v1/tenants/ID")
    said = request.headers.get("content-type")
    raw = await read_bytes(request)
    check_content_type(None if said is None else said.encode("latin-1"))
    body = decode_budgets(raw, services.options.json_depth_max)
    keys = {key.id for key in snapshot.keys.values() if key.tenant == tenant}
    keys |= {budget.key for budget in snapshot.budgets.get(tenant, ()) if budget.key is not None}  # perhaps revoked
    check_budgets(body, services.options.lanes, keys.__contains__)
    check = agreed(request)
    put = await put_budgets(
        services.database,
        tenant,
        [given.budget(tenant) for given in body.budgets],
        lambda stood: check([settings_document(budget) for budget in stood]),
    )
    for lane in put.opened:
        services.news.publish("queue", lane)
    services.news.publish("due", "")
    services.news.publish("budget", "")
    await services.sync.changed(put.version)
    return await _list(request, tenant)


async def _list(request: Request, tenant: str) -> Response:
    services = context(request).services
    used = await read_budget_use(services.database, tenant)
    now = services.clock.now()
    burns = await read_burns(services.database, tenant)
    budgets = services.sync.snapshot.budgets.get(tenant, ())
    items = [_document(budget, used.get(budget.id), burns.get(budget.id), now) for budget in budgets]
    tag = entity_tag([settings_document(budget) for budget in budgets])
    return answer(200, {"items": items, "next": None}, {"etag": tag})


def _document(budget: Budget, use: BudgetUse | None, kept: BurnRow | None, now: float) -> dict[str, Any]:
    if use is None:
        use = _unused(budget, now)
    burn = None if kept is None else Burn(*kept).after(now, use.spent_nano)
    ends_at = None if use.ends is None else use.ends.timestamp()
    return budget_document(budget, use, forecast(burn, budget.hard_nano, ends_at))


def _unused(budget: Budget, now: float) -> BudgetUse:
    """Nobody has asked for money of its present period yet; where its zone is not known here, that has no bounds."""
    try:
        begins, ends = span(budget.period, budget.timezone, now)
    except ZoneInfoNotFoundError:
        return BudgetUse(None, None, 0, 0, None)
    return BudgetUse(_moment(begins), None if ends == FOREVER else _moment(ends), 0, 0, None)


def _moment(epoch_s: float) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)
