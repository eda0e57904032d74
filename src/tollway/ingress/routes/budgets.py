"""The budgets of a tenant; a change is answered when every API process holds it."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from starlette.responses import Response

from tollway.domain.budgets import Budget, Period
from tollway.ingress.bodies import check_content_type
from tollway.ingress.budget_bodies import budget_document, check_budgets, decode_budgets
from tollway.ingress.openapi import describe
from tollway.ingress.requests import answer, context, identify, query_of, read_bytes, refuse_unknown
from tollway.record.budgets import BudgetUse, put_budgets, read_budget_use
from tollway.record.keys import unknown_tenant
from tollway.record.spending import BurnRow, read_burns
from tollway.spend.burn import Burn, forecast

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
        raise unknown_tenant(tenant[:64])
    said = request.headers.get("content-type")
    raw = await read_bytes(request)
    check_content_type(None if said is None else said.encode("latin-1"))
    body = decode_budgets(raw, services.options.json_depth_max)
    keys = {key.id for key in snapshot.keys.values() if key.tenant == tenant}
    keys |= {budget.key for budget in snapshot.budgets.get(tenant, ()) if budget.key is not None}  # perhaps revoked
    check_budgets(body, services.options.lanes, keys.__contains__)
    version = await put_budgets(services.database, tenant, [given.budget(tenant) for given in body.budgets])
    await services.sync.changed(version)
    return await _list(request, tenant)


async def _list(request: Request, tenant: str) -> Response:
    services = context(request).services
    used = await read_budget_use(services.database, tenant)
    now = services.clock.now()
    burns = await read_burns(services.database, tenant)
    budgets = services.sync.snapshot.budgets.get(tenant, ())
    items = [_document(budget, used.get(budget.id), burns.get(budget.id), now) for budget in budgets]
    return answer(200, {"items": items, "next": None})


def _document(budget: Budget, use: BudgetUse | None, kept: BurnRow | None, now: float) -> dict[str, Any]:
    if use is None:  # nobody has asked for money of this period yet
        begins, ends = _present(budget.period, ZoneInfo(budget.timezone), now)
        use = BudgetUse(begins, ends, 0, 0, None)
    burn = None if kept is None else Burn(*kept).after(now, use.spent_nano)
    ends_at = None if use.ends is None else use.ends.timestamp()
    return budget_document(budget, use, forecast(burn, budget.hard_nano, ends_at))


def _present(period: Period, zone: ZoneInfo, now: float) -> tuple[datetime, datetime | None]:
    """When the present period of a budget began and when the next one does; None: never."""
    today = datetime.fromtimestamp(now, zone).date()
    match period:
        case Period.TOTAL:
            return datetime.fromtimestamp(0, UTC), None
        case Period.DAY:
            first, after = today, today + timedelta(days=1)
        case Period.WEEK:
            first = today - timedelta(days=today.weekday())
            after = first + timedelta(days=7)
        case Period.MONTH:
            first = today.replace(day=1)
            after = (first + timedelta(days=31)).replace(day=1)
    return _midnight(first, zone), _midnight(after, zone)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
