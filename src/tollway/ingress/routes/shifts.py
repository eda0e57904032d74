"""Tier shifts: whose calls of one tier are served by another; a change is answered when every API process holds it."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta
from starlette.responses import Response

from tollway.domain.errors import Problem
from tollway.domain.shifts import Shift
from tollway.ingress.conditional import agreed, entity_tag
from tollway.ingress.openapi import describe
from tollway.ingress.problems import invalid
from tollway.ingress.requests import answer, context, identify, read_json
from tollway.record.shifts import put_shifts

router = APIRouter(tags=["shifts"])
SHIFTS_MAX = 1000

Text = Annotated[str, Meta(min_length=1, max_length=255)]


class ShiftBody(msgspec.Struct, forbid_unknown_fields=True):
    """One shift of the body of `PUT /v1/shifts`; who is not named is anybody."""

    from_tier: Text
    to_tier: Text
    tenant: Text | None = None
    agent: Text | None = None
    task_type: Text | None = None

    def shift(self) -> Shift:
        """The same as a shift."""
        return Shift(self.from_tier, self.to_tier, self.tenant, self.agent, self.task_type)


_decoder = msgspec.json.Decoder(Annotated[list[ShiftBody], Meta(max_length=SHIFTS_MAX)])


@router.get("/v1/shifts", **describe("list_shifts"))
async def list_shifts(request: Request) -> Response:
    """The shifts in force, in their order."""
    identify(request, "admin")
    return _list(context(request).services.sync.snapshot.shifts)


@router.put("/v1/shifts", **describe("put_shifts"))
async def replace_shifts(request: Request) -> Response:
    """Replace all shifts in force."""
    identify(request, "admin")
    body = await read_json(request, _decoder)
    services = context(request).services
    tenants, tiers = services.sync.snapshot.tenants, services.options.tiers
    for place, given in enumerate(body):
        if given.tenant is not None and given.tenant not in tenants:
            raise invalid(f"{place}.tenant", f"there is no tenant {given.tenant[:64]!r}; make it first")
        for field in ("from_tier", "to_tier"):
            _check_tier(f"{place}.{field}", getattr(given, field), tiers)
    shifts = tuple(given.shift() for given in body)
    check = agreed(request)
    version = await put_shifts(services.database, shifts, lambda stood: check(_documents(stood)))
    await services.sync.changed(version)
    return _list(shifts)


def _check_tier(path: str, tier: str, tiers: tuple[str, ...]) -> None:
    if tier not in tiers:
        known = f"the tiers are {', '.join(tiers)}" if tiers else "no route is configured"
        said = f"no route serves a tier {tier[:64]!r}; {known}"
        raise Problem("unknown_tier", f"{path}: {said}.", fields={"errors": [{"path": path, "message": said}]})


def _list(shifts: tuple[Shift, ...]) -> Response:
    items = _documents(shifts)
    return answer(200, {"items": items, "next": None}, {"etag": entity_tag(items)})


def _documents(shifts: tuple[Shift, ...]) -> list[dict[str, str]]:
    return [shift.document() for shift in shifts]
