"""Many at once: batches of submits, bulk cancel, dead letters."""

import asyncio
import base64
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta
from starlette.responses import Response

from tollway.domain.errors import Problem
from tollway.domain.ids import parse_id
from tollway.ingress.batches import submit_batch
from tollway.ingress.context import ApiContext
from tollway.ingress.filters import dead_filter, run_filter
from tollway.ingress.hot import as_problem
from tollway.ingress.openapi import describe
from tollway.ingress.problems import invalid
from tollway.ingress.replays import ReplayBody, replay
from tollway.ingress.requests import (
    answer,
    answer_bytes,
    bad_cursor,
    context,
    identify,
    page_of,
    query_of,
    read_bytes,
    read_json,
)
from tollway.record.cancel import cancel_runs, tell_cancelled
from tollway.record.dead_letters import GroupCursor, list_dead_ids, list_dead_letters
from tollway.record.reads import RunFilter, list_live_ids

router = APIRouter()
BULK_MAX = 1_000_000
_CHUNK = 500


class BulkBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which, and how many the caller believes they are; without `confirm` they are only counted."""

    filter: dict[str, Any]
    confirm: Annotated[int, Meta(ge=0)] | None = None


class DeadReplayBody(msgspec.Struct, forbid_unknown_fields=True):
    """Either ids or a filter with its count."""

    ids: Annotated[list[str], Meta(min_length=1, max_length=1000)] | None = None
    filter: dict[str, Any] | None = None
    confirm: Annotated[int, Meta(ge=0)] | None = None


_bulk_decoder = msgspec.json.Decoder(BulkBody)
_dead_decoder = msgspec.json.Decoder(DeadReplayBody)


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
    wanted = run_filter(body.filter, caller, "filter.")
    api = context(request)
    ids = await _live_ids(api, wanted)
    if body.confirm is None:
        return answer(200, {"count": len(ids)})
    _check_count(body.confirm, len(ids))
    cancelled = asked = 0
    for start in range(0, len(ids), _CHUNK):
        done = await cancel_runs(api.services.database, ids[start : start + _CHUNK], caller.key.id)
        cancelled += len(done.ended)
        asked += len(done.asked)
        tell_cancelled(api.services.news, done)
    ended_before = len(ids) - cancelled - asked
    return answer(202, {"count": len(ids), "cancelled": cancelled, "cancelling": asked, "ended_before": ended_before})


@router.get("/v1/dead-letters", tags=["dead letters"], **describe("list_dead_letters"))
async def dead_letters(request: Request) -> Response:
    """Dead runs nobody has replayed yet, grouped by what killed them."""
    caller = identify(request, "read")
    query = query_of(request)
    limit, cursor = page_of(query)
    after = None if cursor is None else _read_cursor(cursor)
    database = context(request).services.database
    groups, last = await list_dead_letters(database, dead_filter(query, caller), after, limit)
    return answer(200, {"items": groups, "next": _cursor(last) if last and len(groups) == limit else None})


@router.post("/v1/dead-letters/replay", tags=["dead letters"], **describe("replay_dead_letters"))
async def replay_dead_letters(request: Request) -> Response:
    """Replay dead runs by their ids, or all that a filter means when their count is confirmed."""
    caller = identify(request, "submit")
    body = await read_json(request, _dead_decoder)
    api = context(request)
    if (body.ids is None) == (body.filter is None):
        raise invalid("", "give either ids or filter")
    if body.ids is not None:
        ids = [parse_id(text) for text in body.ids]
    else:
        wanted = dead_filter(body.filter or {}, caller, "filter.")
        ids = list(await list_dead_ids(api.services.database, wanted, BULK_MAX))
        if body.confirm is None:
            return answer(200, {"count": len(ids)})
        _check_count(body.confirm, len(ids))

    async def one(run_id: UUID | None, shown: str) -> dict[str, Any]:
        try:
            if run_id is None:
                raise Problem("not_found", f"There is no run {shown[:64]!r}.")
            document = await replay(api, caller, run_id, ReplayBody(), dead=True)
        except Exception as error:
            problem = as_problem(error)
            if problem is None:
                raise
            return {"id": shown, "status": problem.status, "error": problem.document()}
        return {"id": shown, "status": 202, "run": msgspec.Raw(document)}

    shown = body.ids or [str(run_id) for run_id in ids]
    results = await _in_turn(one, list(zip(ids, shown, strict=True)))
    replayed = sum(result["status"] == 202 for result in results)
    return answer(202, {"count": len(results), "replayed": replayed, "results": results})


async def _in_turn(
    work: Callable[[UUID | None, str], Coroutine[Any, Any, dict[str, Any]]], items: list[tuple[UUID | None, str]]
) -> list[dict[str, Any]]:
    """A few at a time, so that one caller leaves the pool to others."""
    results: list[dict[str, Any]] = []
    for start in range(0, len(items), 4):
        results += await asyncio.gather(*(work(*item) for item in items[start : start + 4]))
    return results


async def _live_ids(api: ApiContext, wanted: RunFilter) -> list[UUID]:
    """Ids of the live runs that fit; a filter by an ended state means none of them."""
    if wanted.state not in (None, "queued", "running", "waiting", "parked"):
        raise invalid("filter.state", "must be a state of a run that has not ended: queued, running, waiting, parked")
    return await list_live_ids(api.services.database, wanted, None, BULK_MAX)


def _check_count(confirmed: int, counted: int) -> None:
    if confirmed != counted:
        detail = f"The filter means {counted} now, not {confirmed}; look again and confirm the new count."
        raise Problem("confirm_mismatch", detail, fields={"count": counted})


def _cursor(last: GroupCursor) -> str:
    text = "\n".join((last.last_died_at.isoformat(), last.fingerprint, last.agent))
    return base64.urlsafe_b64encode(text.encode()).decode()


def _read_cursor(cursor: str) -> GroupCursor:
    try:
        at, fingerprint, agent = base64.urlsafe_b64decode(cursor).decode().split("\n")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None or "\x00" in cursor + fingerprint + agent:
            raise bad_cursor()
    except ValueError:
        raise bad_cursor() from None
    return GroupCursor(moment, fingerprint, agent)
