"""Usage: who called what, what it cost and what was saved, in groups; as JSON, page by page, or as CSV, whole."""

import asyncio
import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tollway.domain.usage import GROUPS
from tollway.ingress.openapi import describe
from tollway.ingress.problems import invalid
from tollway.ingress.requests import answer, context, identify, page_of, query_of
from tollway.ingress.usage_query import cursor_of, read_cursor, usage_query
from tollway.record.database import Database
from tollway.record.usage import (
    SAVINGS,
    SUMS,
    UsageQuery,
    key_of,
    read_usage,
    read_usage_runs,
    read_usage_sums,
    run_key_of,
    usage_document,
)

router = APIRouter(tags=["usage"])
CSV_ROWS_MAX = 100_000
_BY_RUN = ("tenant", "agent")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@router.get("/v1/usage", **describe("read_usage"))
async def usage(request: Request) -> Response:
    """Calls, tokens, money and savings of days, by any groups."""
    caller = identify(request, "read")
    services = context(request).services
    query = query_of(request)
    as_csv = _wants_csv(request, query)
    limit, cursor = page_of(query)
    wanted = usage_query(query, caller, services.clock.now())
    if as_csv:
        rows = await _all_rows(services.database, wanted)
        return await asyncio.to_thread(_csv, wanted, rows)  # a second's work: others are served meanwhile
    after = read_cursor(cursor, len(GROUPS))
    found = await read_usage(services.database, wanted, after, limit + 1)
    whole = UsageQuery(wanted.begin, wanted.end, (), wanted.filters)
    total = (await read_usage(services.database, whole, None, 1))[0]
    shown = found[:limit]
    for row in shown:
        row["calls_share"] = row["calls"] / total["calls"] if total["calls"] else 0.0
    return answer(
        200,
        {
            "items": shown,
            "next": cursor_of(key_of(shown[-1])) if len(found) > limit else None,
            "from": wanted.begin.isoformat(),
            "to": wanted.end.isoformat(),
            "group_by": wanted.groups,
            "total": total,
        },
    )


@router.get("/v1/usage/runs", **describe("read_usage_runs"))
async def usage_runs(request: Request) -> Response:
    """Ended runs by agent: how many, and percentiles of the calls and the cost of one."""
    caller = identify(request, "read")
    services = context(request).services
    query = query_of(request)
    limit, cursor = page_of(query)
    wanted = usage_query(query, caller, services.clock.now(), _BY_RUN)
    after = read_cursor(cursor, len(_BY_RUN))
    found = await read_usage_runs(services.database, wanted, after, limit + 1)
    shown = found[:limit]
    return answer(
        200,
        {
            "items": shown,
            "next": cursor_of(run_key_of(shown[-1])) if len(found) > limit else None,
            "from": wanted.begin.isoformat(),
            "to": wanted.end.isoformat(),
        },
    )


def _wants_csv(request: Request, query: dict[str, str]) -> bool:
    given = query.pop("format", None)
    if given not in (None, "csv", "json"):
        raise invalid("format", "must be csv or json")
    return given == "csv" or (given is None and "text/csv" in request.headers.get("accept", "").lower())


async def _all_rows(database: Database, wanted: UsageQuery) -> Sequence[Mapping[str, Any]]:
    rows = await read_usage_sums(database, wanted, None, CSV_ROWS_MAX + 1)
    if len(rows) > CSV_ROWS_MAX:
        raise invalid("group_by", f"makes more than {CSV_ROWS_MAX:,} rows; name fewer groups, or fewer days at a time")
    return rows


def _csv(wanted: UsageQuery, rows: Sequence[Mapping[str, Any]]) -> Response:
    saved = {f"saved_{name}_usd": f"{name}_usd" for name in SAVINGS}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*wanted.groups, *SUMS, "cost_usd", "unknown_usd", "saved_usd", *saved])
    for row in (usage_document(sums, wanted.groups) for sums in rows):
        money = (_dollars(row["cost_usd"]), _dollars(row["unknown_usd"]), _dollars(row["saved_usd"]))
        savings = (_dollars(row["saved"][name]) for name in saved.values())
        writer.writerow(
            [*(_cell(row[name]) for name in wanted.groups), *(row[name] for name in SUMS), *money, *savings]
        )
    name = f"usage-{wanted.begin}-{wanted.end}.csv"
    return Response(
        text.getvalue(),
        200,
        {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
        "text/csv",
    )


def _cell(text: str | None) -> str:
    """A name as a cell. A spreadsheet takes what begins like a formula for one: an apostrophe keeps it a text."""
    if text is None:
        return ""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _dollars(amount: float) -> str:
    return f"{amount:.9f}"
