"""Rungs of a budget by hand: forced before their time, or lifted at it, on every process after the answer."""

import re

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from tollway.domain.budgets import Rung
from tollway.domain.errors import Problem
from tollway.ingress.conditional import agreed, entity_tag
from tollway.ingress.openapi import describe
from tollway.ingress.problems import invalid
from tollway.ingress.requests import answer, context, identify, query_of, read_json, refuse_unknown
from tollway.record.keys import unknown_tenant
from tollway.record.rungs import ByHand, put_rungs, read_rungs
from tollway.telemetry.logs import get_logger

router = APIRouter(tags=["tenants"])
log = get_logger(__name__)
_BUDGET = re.compile(r"[1-9][0-9]{0,17}")


class RungsBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PUT /v1/tenants/{tenant}/budgets/{budget}/rungs`; what is absent is empty."""

    forced: list[Rung] = msgspec.field(default_factory=list)
    lifted: list[Rung] = msgspec.field(default_factory=list)


_decoder = msgspec.json.Decoder(RungsBody)


@router.get("/v1/tenants/{tenant}/budgets/{budget}/rungs", **describe("get_rungs"))
async def get_rungs(request: Request) -> Response:
    """What is forced and lifted of a budget; a key without `admin` sees its own tenant's."""
    caller = identify(request, "read")
    refuse_unknown(query_of(request), "no parameters")
    tenant = request.path_params["tenant"]
    if tenant not in context(request).services.sync.snapshot.tenants or not caller.may_see(tenant):
        raise unknown_tenant(tenant[:64])
    found = await read_rungs(context(request).services.database, tenant, _budget_of(request))
    if found is None:
        raise _unknown_budget(request)
    return answer(200, found, {"etag": entity_tag(found)})


@router.put("/v1/tenants/{tenant}/budgets/{budget}/rungs", **describe("put_rungs"))
async def replace_rungs(request: Request) -> Response:
    """Replace what is forced and lifted of a budget."""
    caller = identify(request, "admin")
    services = context(request).services
    tenant = request.path_params["tenant"]
    if tenant not in services.sync.snapshot.tenants:
        raise unknown_tenant(tenant[:64])
    budget = _budget_of(request)
    body = await read_json(request, _decoder)
    for place, rung in enumerate(body.lifted):
        if rung in body.forced:
            raise invalid(f"lifted.{place}", f"{rung.value} is forced as well; name it once")
    by_hand = ByHand(body.forced, body.lifted)
    put = await put_rungs(services.database, tenant, budget, by_hand, agreed(request))
    if put is None:
        raise _unknown_budget(request)
    for lane in put.opened:
        services.news.publish("queue", lane)
    services.news.publish("due", "")
    await services.sync.changed(put.version)
    said = {name: " ".join(put.document[name]) for name in ("forced", "lifted")}
    log.info("budget.rungs", tenant=tenant, budget=budget, key=caller.key.id, **said)
    return answer(200, put.document, {"etag": entity_tag(put.document)})


def _budget_of(request: Request) -> int:
    """The budget of the path. Raises Problem `not_found` for what could be none."""
    text = request.path_params["budget"]
    if not _BUDGET.fullmatch(text):
        raise _unknown_budget(request)
    return int(text)


def _unknown_budget(request: Request) -> Problem:
    tenant, budget = request.path_params["tenant"], request.path_params["budget"]
    return Problem(
        "not_found", f"Tenant {tenant[:64]} has no budget {budget[:64]!r}; `tollway budget list` shows them."
    )
