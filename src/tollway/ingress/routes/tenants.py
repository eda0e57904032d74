"""Tenants and their API keys; a change is answered when every API process holds it."""

import re
from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from tollway.domain.errors import Problem
from tollway.domain.words import Scope
from tollway.ingress.openapi import describe
from tollway.ingress.problems import invalid
from tollway.ingress.requests import answer, bad_cursor, context, identify, page_of, query_of, read_json, refuse_unknown
from tollway.ingress.submission import Webhook, check_webhook
from tollway.record.keys import create_key, list_keys, revoke_key, unknown_tenant
from tollway.record.tenants import put_tenant

router = APIRouter(tags=["tenants"])
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[A-Za-z0-9_]{1,64}")
_COUNT_MAX = (1 << 63) - 1
_RATE_MAX = 1e9

Rate = Annotated[float, Meta(gt=0, le=_RATE_MAX)]
Count = Annotated[int, Meta(gt=0, le=_COUNT_MAX)]


class TenantBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `PUT /v1/tenants/{id}`: absent fields stay as they are, null lifts a limit."""

    name: Annotated[str, Meta(max_length=255)] | UnsetType | None = UNSET
    weight: Rate | UnsetType = UNSET
    runs_per_s: Rate | UnsetType | None = UNSET
    max_queued: Annotated[int, Meta(ge=0, le=_COUNT_MAX)] | UnsetType | None = UNSET
    max_running: Count | UnsetType | None = UNSET
    tokens_per_min: Count | UnsetType | None = UNSET
    tokens_per_day: Count | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET
    alert_webhook: Webhook | UnsetType | None = UNSET


class KeyBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/tenants/{id}/keys`."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=16)]


_tenant_decoder = msgspec.json.Decoder(TenantBody)
_key_decoder = msgspec.json.Decoder(KeyBody)


@router.get("/v1/tenants", **describe("list_tenants"))
async def list_all(request: Request) -> Response:
    """Every tenant."""
    identify(request, "admin")
    query = query_of(request)
    limit, cursor = page_of(query)
    refuse_unknown(query, "limit, cursor")
    known = context(request).services.sync.snapshot.tenants
    names = [name for name in sorted(known) if cursor is None or name > cursor]
    shown = names[:limit]
    more = shown[-1] if len(names) > limit else None
    return answer(200, {"items": [known[name].document for name in shown], "next": more})


@router.get("/v1/tenants/{tenant}", **describe("get_tenant"))
async def get_one(request: Request) -> Response:
    """One tenant; a key without `admin` sees its own."""
    caller = identify(request, "read")
    tenant = request.path_params["tenant"]
    known = context(request).services.sync.snapshot.tenants.get(tenant)
    if known is None or not caller.may_see(tenant):
        raise unknown_tenant(tenant[:64])
    return answer(200, known.document)


@router.get("/v1/tenants/{tenant}/use", **describe("read_use"))
async def read_use(request: Request) -> Response:
    """What a tenant uses of its quotas now; a key without `admin` sees its own."""
    caller = identify(request, "read")
    refuse_unknown(query_of(request), "no parameters")
    tenant = request.path_params["tenant"]
    api = context(request)
    record = api.services.sync.snapshot.tenants.get(tenant)
    if record is None or not caller.may_see(tenant):
        raise unknown_tenant(tenant[:64])
    count = (await api.board.backlog.fresh()).of(tenant=tenant)
    use = {"queued": count.queued, "running": count.running}
    return answer(200, {"tenant": tenant, **use, **api.admission.quotas.tokens_used(record), "limits": record.limits})


@router.put("/v1/tenants/{tenant}", **describe("put_tenant"))
async def put_one(request: Request) -> Response:
    """Make or change a tenant."""
    identify(request, "admin")
    body = await read_json(request, _tenant_decoder, optional=True)
    tenant = request.path_params["tenant"]
    if not _TENANT.fullmatch(tenant):
        raise invalid("id", "must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit")
    if isinstance(body.alert_webhook, Webhook):
        check_webhook(body.alert_webhook, "alert_webhook")
    given = {
        name: msgspec.to_builtins(value)
        for name in body.__struct_fields__
        if (value := getattr(body, name)) is not UNSET
    }
    services = context(request).services
    put = await put_tenant(services.database, tenant, given)
    for lane in put.opened:  # the record has it already: workers need not wait for the settings to go round
        services.news.publish("queue", lane)
    await services.sync.changed(put.version)
    await context(request).admission.quotas.depths.settle()
    return answer(201 if put.created else 200, put.document)


@router.get("/v1/tenants/{tenant}/keys", **describe("list_keys"))
async def list_tenant_keys(request: Request) -> Response:
    """A tenant's keys, without the secrets."""
    tenant = _tenant_of(request)
    query = query_of(request)
    limit, cursor = page_of(query)
    refuse_unknown(query, "limit, cursor")
    if cursor is not None and not _KEY.fullmatch(cursor):
        raise bad_cursor()
    keys = await list_keys(context(request).services.database, tenant, cursor, limit + 1)
    shown = keys[:limit]
    return answer(200, {"items": shown, "next": shown[-1]["id"] if len(keys) > limit else None})


@router.post("/v1/tenants/{tenant}/keys", **describe("create_key"))
async def make_key(request: Request) -> Response:
    """Make a key; its secret is in this answer and nowhere else."""
    tenant = _tenant_of(request)
    body = await read_json(request, _key_decoder)
    services = context(request).services
    scopes = sorted({scope.value for scope in body.scopes})
    document, version = await create_key(services.database, services.ids.new(), tenant, body.name, scopes)
    await services.sync.changed(version)
    return answer(201, document)


@router.delete("/v1/tenants/{tenant}/keys/{key_id}", **describe("revoke_key"))
async def end_key(request: Request) -> Response:
    """Revoke a key, on every API process before the answer."""
    tenant = _tenant_of(request)
    key_id = request.path_params["key_id"]
    if not _KEY.fullmatch(key_id):
        raise Problem("not_found", f"There is no key {key_id[:64]!r}.")
    services = context(request).services
    await services.sync.changed(await revoke_key(services.database, tenant, key_id))
    return Response(status_code=204)


def _tenant_of(request: Request) -> str:
    """The tenant of the path, which an admin may act on and which exists. Raises Problem."""
    identify(request, "admin")
    tenant: str = request.path_params["tenant"]
    if tenant not in context(request).services.sync.snapshot.tenants:
        raise unknown_tenant(tenant[:64])
    return tenant
