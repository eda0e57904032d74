"""Many runs at once: batches of submits, bulk cancel."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta
from starlette.responses import Response

from tollway.domain.words import LIVE_STATES
from tollway.ingress.auth import Caller
from tollway.ingress.batches import submit_batch
from tollway.ingress.context import ApiContext
from tollway.ingress.filters import run_filter
from tollway.ingress.openapi import describe
from tollway.ingress.problems import invalid
from tollway.ingress.requests import answer, answer_bytes, context, identify, read_bytes, read_json
from tollway.ingress.selection import Choice, Chosen, choose
from tollway.record.cancel import cancel_runs, tell_cancelled
from tollway.record.live import count_live, list_live

router = APIRouter()
_CHUNK = 250


class BulkBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which, and how many the caller believes they are; without `confirm` they are only counted.

    `snapshot` true asks for one with the count; given back with `confirm`, what came since is left alone.
    """

    filter: dict[str, Any]
    confirm: Annotated[int, Meta(ge=0)] | None = None
    snapshot: bool | str | None = None


_bulk_decoder = msgspec.json.Decoder(BulkBody)


@router.post("/v1/runs/batch", tags=["runs"], **describe("submit_batch"))
async def submit_runs(request: Request) -> Response:
    """Submit up to 10,000 runs; each is accepted or refused for itself."""
    caller = identify(request, "submit")
    api = context(request)
    api.gatekeeper.check_open()
    return answer_bytes(
        200, await submit_batch(api, caller, await read_bytes(request), request.headers.get("content-type"))
    )


@router.post("/v1/runs/cancel", tags=["runs"], **describe("cancel_runs"))
async def cancel_many(request: Request) -> Response:
    """Count the live runs a filter means, or cancel exactly those when the count is confirmed."""
    caller = identify(request, "cancel")
    body = await read_json(request, _bulk_decoder)
    api = context(request)
    chosen = await choose(live_choice(api, body.filter, caller), body.confirm, body.snapshot, api.services.clock.now())
    return answer(202, await _cancel(api, caller, chosen)) if isinstance(chosen, Chosen) else answer(200, chosen)


def live_choice(api: ApiContext, given: dict[str, Any], caller: Caller) -> Choice:
    """The live runs a filter means. Raises Problem `invalid_input` for a filter by the state of an ended run."""
    wanted = run_filter(given, caller, "filter.")
    if wanted.state is not None and wanted.state not in LIVE_STATES:
        raise invalid("filter.state", "must be a state of a run that has not ended: queued, running, waiting, parked")
    database = api.services.database
    return Choice(
        wanted,
        lambda: count_live(database, wanted),
        lambda view, limit: list_live(database, wanted, view, limit),
    )


async def _cancel(api: ApiContext, caller: Caller, chosen: Chosen) -> dict[str, int]:
    """Cancel them chunk by chunk, on one connection at a time: the pool is everybody's."""
    cancelled = asked = left = 0
    for start in range(0, len(chosen.ids), _CHUNK):
        done = await cancel_runs(api.services.database, chosen.ids[start : start + _CHUNK], caller.key.id)
        tell_cancelled(api.services.news, done)
        cancelled += len(done.ended)
        asked += len(done.asked)
        left += len(done.left)
    ended_before = chosen.count - cancelled - asked - left
    return {
        "count": chosen.count,
        "cancelled": cancelled,
        "cancelling": asked,
        "ended_before": ended_before,
        "left": left,
    }
