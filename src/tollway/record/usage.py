"""Reading usage: sums of calls, tokens, money and savings in groups, and how calls and cost are spread over runs.

Reads what the keeper has summed up, never the ledger or the runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from tollway.domain.money import usd
from tollway.domain.usage import GROUPS, cover, detail_of, part_of, percentile
from tollway.record.database import Database

FILTERS = ("tenant", "agent", "lane", "tier", "route", "step", "key", "task_type")
SUMS = ("runs", "calls", "hits", "input_tokens", "output_tokens", "cached_tokens", "cost_nano", "unknown_nano")
SAVINGS = {
    "cache": "saved_cache_nano",
    "flight": "saved_flight_nano",
    "prompt_cache": "saved_prompt_nano",
    "shift": "saved_shift_nano",
}
_EVERY_TENANT = ("0", "~")  # ids begin with a letter or a digit
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """What usage is asked for: of the UTC days from `begin` to before `end`, by `groups`, within `filters`."""

    begin: date
    end: date
    groups: tuple[str, ...] = ()
    filters: Mapping[str, str] = field(default_factory=dict)


async def read_usage(
    database: Database, wanted: UsageQuery, after: Sequence[str] | None, limit: int
) -> list[dict[str, Any]]:
    """Rows by their groups, sorted, beyond the `key_of` another row; at most `limit`. Without groups it is one, always.

    Raises DatabaseUnavailable.
    """
    rows = await read_usage_sums(database, wanted, after, limit)
    return [usage_document(row, wanted.groups) for row in rows]


async def read_usage_sums(
    database: Database, wanted: UsageQuery, after: Sequence[str] | None, limit: int
) -> Sequence[Mapping[str, Any]]:
    """The same as bare sums, for `usage_document`."""
    told_apart = {*wanted.groups, *wanted.filters}
    detail = detail_of(told_apart)
    rows = await _report(
        database,
        "read_usage",
        *_units(wanted, by_day="day" in wanted.groups),
        *(name in wanted.groups for name in GROUPS),
        part_of(told_apart),
        *_tenants(wanted.filters, detail),
        *(wanted.filters.get(name) for name in FILTERS[1:]),
        None if after is None else list(after),
        limit,
        detail,
    )
    if not rows and not wanted.groups and after is None:
        return [dict.fromkeys((*SUMS, *SAVINGS.values()), 0)]
    return rows


def key_of(document: Mapping[str, Any]) -> list[str]:
    """Where a row stands among all of its query."""
    return [document.get(name) or "" for name in GROUPS]


async def read_usage_runs(
    database: Database, wanted: UsageQuery, after: list[str] | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Ended runs by agent, or by tenant and agent: how many, and percentiles of their calls and cost.

    Sorted, beyond the `run_key_of` another; at most `limit`. Groups and filters may name `tenant` and `agent` alone.
    Raises DatabaseUnavailable.
    """
    by_tenant = "tenant" in wanted.groups
    detail = "owner" if by_tenant or "tenant" in wanted.filters else "whole"
    tenants, agent_only = _tenants(wanted.filters, detail), wanted.filters.get("agent")
    units = _units(wanted, by_day=False)
    found: dict[tuple[str | None, str], dict[str, Any]] = {}
    for row in await _report(database, "read_usage_runs", *units, by_tenant, *tenants, agent_only, detail):
        if after is not None and run_key_of(row) <= after:
            continue
        if len(found) == limit and (row["tenant"], row["agent"]) not in found:
            break
        document = found.setdefault((row["tenant"], row["agent"]), _no_runs(row, by_tenant=by_tenant))
        document["states"][row["state"]] = row["runs"]
        for name in ("runs", "calls", "cost_nano"):
            document[name] += row[name]
    if not found:
        return []
    if by_tenant:
        tenants = next(iter(found))[0] or "", next(reversed(found))[0] or ""
    buckets: dict[tuple[str | None, str, str], dict[int, int]] = {}
    for row in await _report(database, "read_usage_spread", *units, by_tenant, *tenants, agent_only):
        buckets.setdefault((row["tenant"], row["agent"], row["measure"]), {})[row["bucket"]] = row["runs"]
    for (tenant, agent), document in found.items():
        document["cost_usd"] = usd(document["cost_nano"])
        document["calls_per_run"] = _percentiles(buckets.get((tenant, agent, "calls"), {}))
        costs = _percentiles(buckets.get((tenant, agent, "cost"), {}))
        document["cost_nano_per_run"] = costs
        document["cost_usd_per_run"] = {name: None if nano is None else usd(nano) for name, nano in costs.items()}
    return list(found.values())


def run_key_of(row: Mapping[str, Any]) -> list[str]:
    """Where runs of an agent stand among all of their query."""
    return [row.get("tenant") or "", row["agent"]]


async def _report(database: Database, name: str, *arguments: Any) -> list[Any]:
    async with database.connection() as connection, connection.transaction(readonly=True):
        await database.on(connection, "plan_anew")
        return await database.on(connection, name, *arguments)


def _units(wanted: UsageQuery, *, by_day: bool) -> tuple[list[str], list[date], list[date | None]]:
    units = cover(wanted.begin, wanted.end, by_day=by_day)
    return [unit.span for unit in units], [unit.begins for unit in units], [unit.upto for unit in units]


def _tenants(filters: Mapping[str, str], detail: str) -> tuple[str, str]:
    """The first and the last tenant of the rows to read."""
    if detail == "whole":
        return "", ""
    tenant = filters.get("tenant")
    return _EVERY_TENANT if tenant is None else (tenant, tenant)


def usage_document(row: Mapping[str, Any], groups: Sequence[str]) -> dict[str, Any]:
    """Sums as they are shown."""
    saved = {name: row[column] for name, column in SAVINGS.items()}
    total = sum(saved.values())
    return {
        **{name: row[name] or None for name in groups},
        **{name: row[name] for name in SUMS},
        "cost_usd": usd(row["cost_nano"]),
        "unknown_usd": usd(row["unknown_nano"]),
        "saved_usd": usd(total),
        "saved_nano": total,
        "saved": {f"{name}_usd": usd(nano) for name, nano in saved.items()},
    }


def _no_runs(row: Any, *, by_tenant: bool) -> dict[str, Any]:
    owner = {"tenant": row["tenant"], "agent": row["agent"]} if by_tenant else {"agent": row["agent"]}
    return {**owner, "runs": 0, "states": {}, "calls": 0, "cost_nano": 0}


def _percentiles(runs: Mapping[int, int]) -> dict[str, int | None]:
    return {name: percentile(runs, share) for name, share in _SHARES.items()}
