"""Dead letters: what killed runs, the runs it killed, and what to do with them: replay or discard."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from tollway.domain.errors import Problem
from tollway.domain.ids import parse_id
from tollway.ingress.auth import Caller
from tollway.ingress.context import ApiContext
from tollway.ingress.filters import dead_filter
from tollway.ingress.letter_replays import Plan, Results, replay_letters
from tollway.ingress.openapi import describe
from tollway.ingress.problems import invalid
from tollway.ingress.replays import From, check_input, kept_of
from tollway.ingress.requests import answer, bad_cursor, context, id_page_of, identify, page_of, query_of, read_json
from tollway.ingress.selection import Choice, Chosen, choose
from tollway.record.dead_letters import (
    GroupCursor,
    count_letters,
    discard_letters,
    list_dead_ids,
    list_dead_letters,
    list_letters,
)

router = APIRouter(tags=["dead letters"])
_CHUNK = 1000


class LettersBody(msgspec.Struct, forbid_unknown_fields=True):
    """Either the ids of runs, or a filter, first to be counted and then with that count."""

    ids: Annotated[list[str], Meta(min_length=1, max_length=1000)] | None = None
    filter: dict[str, Any] | None = None
    confirm: Annotated[int, Meta(ge=0)] | None = None
    snapshot: bool | str | None = None


class DeadDiscardBody(LettersBody):
    """Which dead letters to discard."""


class DeadReplayBody(LettersBody):
    """Which dead letters to replay, and how: `input` replaces the input of one, `input_patch` changes that of each."""

    from_: From | None = msgspec.field(default=None, name="from")
    input: msgspec.Raw | UnsetType = UNSET
    input_patch: dict[str, Any] | None = None


_replay_decoder = msgspec.json.Decoder(DeadReplayBody)
_discard_decoder = msgspec.json.Decoder(DeadDiscardBody)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The letters to act on: their runs as the caller names them, out of how many."""

    named: list[str]
    count: int


@router.get("/v1/dead-letters", **describe("list_dead_letters"))
async def dead_letters(request: Request) -> Response:
    """Dead runs that nobody has replayed or discarded, grouped by what killed them."""
    caller = identify(request, "read")
    query = query_of(request)
    limit, cursor = page_of(query)
    after = None if cursor is None else _read_cursor(cursor)
    database = context(request).services.database
    groups, last = await list_dead_letters(database, dead_filter(query, caller), after, limit)
    return answer(200, {"items": groups, "next": _cursor(last) if last and len(groups) == limit else None})


@router.get("/v1/dead-letters/{fingerprint}", **describe("list_letters"))
async def letters(request: Request) -> Response:
    """The dead runs of one group, newest first, each with the step that failed and what it cost."""
    caller = identify(request, "read")
    query = query_of(request)
    limit, before = id_page_of(query)
    if "fingerprint" in query:
        raise invalid("fingerprint", "stands in the path already")
    fingerprint = request.path_params["fingerprint"]
    wanted = dead_filter(query, caller)
    found = await list_letters(
        context(request).services.database, fingerprint.replace("\x00", ""), wanted, before, limit + 1
    )
    if not found and before is None:
        detail = (
            f"There is no dead letter of the group {fingerprint[:64]!r} here; GET /v1/dead-letters lists the groups."
        )
        raise Problem("not_found", detail)
    shown = found[:limit]
    return answer(200, {"items": shown, "next": shown[-1]["run_id"] if len(found) > limit else None})


@router.post("/v1/dead-letters/replay", **describe("replay_dead_letters"))
async def replay_dead_letters(request: Request) -> Response:
    """Replay dead runs by their ids, or all that a filter means when their count is confirmed."""
    caller = identify(request, "submit")
    body = await read_json(request, _replay_decoder)
    api = context(request)
    check_input(body.input, body.input_patch)
    if not isinstance(body.input, UnsetType) and len(body.ids or ()) != 1:
        raise invalid("input", "replaces the input of one run: give one id; input_patch changes the input of many")
    plan = Plan(kept_of(body.from_), body.input, body.input_patch)
    asked = await _asked(api, caller, body)
    if not isinstance(asked, _Asked):
        return answer(200, asked)
    results = await replay_letters(api, caller, asked.named, plan)
    return answer(202, results.answer("replayed", asked.count))


@router.post("/v1/dead-letters/discard", **describe("discard_dead_letters"))
async def discard_dead_letters(request: Request) -> Response:
    """Take dead runs off the list without a replay, by their ids or by a filter with its confirmed count."""
    caller = identify(request, "cancel")
    body = await read_json(request, _discard_decoder)
    api = context(request)
    asked = await _asked(api, caller, body)
    if not isinstance(asked, _Asked):
        return answer(200, asked)
    results = Results()
    for start in range(0, len(asked.named), _CHUNK):
        await _discard(api, caller, asked.named[start : start + _CHUNK], results)
    return answer(202, results.answer("discarded", asked.count))


async def _discard(api: ApiContext, caller: Caller, named: list[str], results: Results) -> None:
    ids = {text: parse_id(text) for text in named}
    known = [run_id for run_id in dict.fromkeys(ids.values()) if run_id is not None]
    done = await discard_letters(api.services.database, known, caller.tenant, caller.key.id)
    for ended in done.now:
        api.services.news.publish("run", str(ended))
    fresh = set(done.now)
    for text in named:
        run_id = ids[text]
        if run_id in fresh:
            fresh.discard(run_id)
            results.add(text, 202)
        elif run_id in done.now or run_id in done.before:
            results.refuse(
                text, Problem("conflict", f"The dead letter of run {run_id} was replayed or discarded already.")
            )
        else:
            detail = f"There is no dead letter of a run {text[:64]!r} for this key; GET /v1/dead-letters lists them."
            results.refuse(text, Problem("not_found", detail))


async def _asked(api: ApiContext, caller: Caller, body: LettersBody) -> "_Asked | dict[str, Any]":
    """The letters meant, or the answer to a question for their count. Raises Problem."""
    if (body.ids is None) == (body.filter is None):
        raise invalid("", "give either ids or filter")
    if body.ids is not None:
        for name in ("confirm", "snapshot"):
            if getattr(body, name) is not None:
                raise invalid(name, "goes with filter; ids are acted on as they are named")
        return _Asked(body.ids, len(body.ids))
    choice = letter_choice(api, body.filter or {}, caller)
    chosen = await choose(choice, body.confirm, body.snapshot, api.services.clock.now())
    return _Asked([str(run_id) for run_id in chosen.ids], chosen.count) if isinstance(chosen, Chosen) else chosen


def letter_choice(api: ApiContext, given: Mapping[str, Any], caller: Caller) -> Choice:
    """The dead letters a filter means."""
    wanted = dead_filter(given, caller, "filter.")
    database = api.services.database
    return Choice(
        wanted,
        lambda: count_letters(database, wanted),
        lambda view, limit: list_dead_ids(database, wanted, view, limit),
    )


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
