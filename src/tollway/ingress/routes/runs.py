"""Lists of runs, one run's events and steps, cancelling and replaying one run."""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from tollway.domain.errors import Problem
from tollway.ingress.filters import run_filter
from tollway.ingress.hot import no_such_run
from tollway.ingress.openapi import describe
from tollway.ingress.problems import invalid, unavailable
from tollway.ingress.replays import ReplayBody, replay
from tollway.ingress.requests import (
    answer,
    answer_bytes,
    context,
    id_page_of,
    identify,
    items_bytes,
    own_run,
    page_of,
    query_of,
    read_json,
    refuse_unknown,
)
from tollway.record.cancel import cancel_runs, tell_cancelled
from tollway.record.event_document import event_json
from tollway.record.reads import EVENTS_PAGE, list_steps
from tollway.record.run_document import run_is_final, run_json, run_state

router = APIRouter(tags=["runs"])
_replay_decoder = msgspec.json.Decoder(ReplayBody)
_any_decoder = msgspec.json.Decoder()
_SEQ_MAX = 2_147_483_647
_CANCEL_TRIES = 5


@router.get("/v1/runs", **describe("list_runs"))
async def list_runs(request: Request) -> Response:
    """Runs, newest first."""
    caller = identify(request, "read")
    api = context(request)
    query = query_of(request)
    limit, before = id_page_of(query)
    rows = await api.services.reads.list_runs(run_filter(query, caller), before, limit + 1)
    shown = rows[:limit]
    documents = [run_json(row, api.hot.standing) for row in shown]
    return answer_bytes(200, items_bytes(documents, str(shown[-1][0]) if len(rows) > limit else None))


@router.get("/v1/runs/{run_id}", include_in_schema=False)
async def read_run(request: Request) -> Response:
    """What is no run's id comes here from the hot route; it is not there, for whoever may ask."""
    caller = identify(request, "read")
    _, row = await own_run(request, caller)
    return answer_bytes(200, run_json(row, context(request).hot.standing))


@router.get("/v1/runs/{run_id}/events", **describe("list_events"))
async def list_events(request: Request) -> Response:
    """A run's history: as a list, or as it happens."""
    caller = identify(request, "read")
    run_id, _ = await own_run(request, caller)
    api = context(request)
    if "text/event-stream" in request.headers.get("accept", "").lower():
        last = request.headers.get("last-event-id", "").strip()
        after = _seq(last, "Last-Event-ID") if last else 0
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(api.services.streams.follow(run_id, after), 200, headers, "text/event-stream")
    query = query_of(request)
    limit, cursor = page_of(query)
    refuse_unknown(query, "limit, cursor")
    after = 0 if cursor is None else _seq(cursor, "cursor")
    shown: list[bytes] = []
    more = True
    while more and len(shown) <= limit:
        events = await api.services.reads.events(run_id, after)
        shown.extend(event_json(event) for event in events)
        more = len(events) == EVENTS_PAGE
        after = events[-1].seq if events else after
    last_seq = msgspec.json.decode(shown[limit - 1])["seq"] if len(shown) > limit else None
    return answer_bytes(200, items_bytes(shown[:limit], None if last_seq is None else str(last_seq)))


@router.get("/v1/runs/{run_id}/steps", **describe("list_steps"))
async def list_run_steps(request: Request) -> Response:
    """A run's journal."""
    caller = identify(request, "read")
    run_id, _ = await own_run(request, caller)
    query = query_of(request)
    limit, cursor = page_of(query)
    refuse_unknown(query, "limit, cursor")
    after = 0 if cursor is None else _seq(cursor, "cursor")
    steps = await list_steps(context(request).services.database, run_id, after, limit + 1)
    shown = steps[:limit]
    return answer(200, {"items": shown, "next": str(shown[-1]["n"]) if len(steps) > limit else None})


@router.post("/v1/runs/{run_id}/cancel", **describe("cancel_run"))
async def cancel_run(request: Request) -> Response:
    """End a run: at once if it waits, within a second if it runs."""
    caller = identify(request, "cancel")
    await _no_fields(request)
    api = context(request)
    services = api.services
    run_id, row = await own_run(request, caller)
    for _ in range(_CANCEL_TRIES):
        if run_is_final(row):
            state = run_state(row)
            if state == "cancelled":
                return answer_bytes(200, run_json(row))
            detail = f"Run {run_id} has ended ({state}); an ended run stays as it is."
            raise Problem("run_final", detail, fields={"state": state})
        done = await cancel_runs(services.database, [run_id], caller.key.id)
        tell_cancelled(services.news, done)
        found = await services.reads.run(run_id)
        if found is None:
            raise no_such_run(str(run_id))
        row = found
        if run_id in done.ended or run_id in done.asked:
            return answer_bytes(202, run_json(row, api.hot.standing))
    raise unavailable("the run moves faster than it can be cancelled")


@router.post("/v1/runs/{run_id}/replay", **describe("replay_run"))
async def replay_run(request: Request) -> Response:
    """Run an ended run again, from the start or from a step, with its input or another."""
    caller = identify(request, "submit")
    body = await read_json(request, _replay_decoder, optional=True)
    run_id, _ = await own_run(request, caller)
    api = context(request)
    new = await replay(api, caller, run_id, body)
    return answer_bytes(202, new)


async def _no_fields(request: Request) -> None:
    if await read_json(request, _any_decoder, optional=True) != {}:
        raise invalid("", "this route takes no body")


def _seq(text: str, path: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise invalid(path, "must be the number of an event")
    return min(int(text), _SEQ_MAX)
