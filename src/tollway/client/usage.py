"""Reading usage reports: all pages of one as one document, or the whole as CSV."""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from tollway.client.transport import Call, Transport

PATH, RUNS_PATH = "/v1/usage", "/v1/usage/runs"
_PAGE_ROWS = 500
_PATIENCE_S = 60.0


class UsageFilter(TypedDict, total=False):
    """What usage to report: UTC days from `from_day` to before `to_day` (2026-01-31), and only of these."""

    from_day: str
    to_day: str
    tenant: str
    agent: str
    lane: str
    tier: str
    route: str
    step: str
    key: str
    task_type: str


async def fetch_usage(
    transport: Transport, path: str, group_by: Iterable[str], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The report with all its rows under `items`."""
    query = _query(group_by, asked)
    report: dict[str, Any] = {}
    cursor: str | None = None
    while True:
        page = [("limit", str(_PAGE_ROWS)), *([("cursor", cursor)] if cursor else [])]
        found = (await transport.send(Call("GET", path, [*query, *page], wait_s=_PATIENCE_S))).json()
        if report:
            report["items"] += found["items"]
        else:
            report = found
        cursor = found["next"]
        if cursor is None:
            return {**report, "next": None}


async def fetch_usage_csv(transport: Transport, group_by: Iterable[str], asked: Mapping[str, Any]) -> bytes:
    """The report as CSV in UTF-8, with a line of names."""
    query = [*_query(group_by, asked), ("format", "csv")]
    return (await transport.send(Call("GET", PATH, query, wait_s=_PATIENCE_S))).body


def _query(group_by: Iterable[str], asked: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = {"from_day": "from", "to_day": "to"}
    groups = ",".join(group_by)
    given = [(named.get(name, name), str(value)) for name, value in asked.items() if value is not None]
    return [("group_by", groups), *given] if groups else given
