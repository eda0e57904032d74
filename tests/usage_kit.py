"""Ledger entries and ended runs, written as freely as a test of usage needs, and what must hold of their sums."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from record_kit import clock, ids
from tollway.record.rollup import Rollup

_ENTRY = """
insert into ledger (
    call_id, kind, run_id, n, tenant, agent, lane, tier, route, step, key_id, task_type, nano, input_tokens,
    output_tokens, cached_tokens, cached, saved_nano, saved_prompt_nano, saved_shift_nano, at
) values ($1, $2, $3, 1, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
"""
_RUN = """
insert into run (
    id, tenant, agent, version, lane, key_id, input, metadata, created_at, max_attempts, state, ended_at, llm_calls,
    cost_nano, ended_xid
) values ($1, $2, $3, '1', 'standard', 'k', '', $4, $5, 3, $6, $5, $7, $8,
    case when $6::text is not null then this_xid() end)
"""
SUMS = (
    *("input_tokens", "output_tokens", "cached_tokens", "cost_nano", "unknown_nano", "calls", "hits"),
    *("saved_cache_nano", "saved_flight_nano", "saved_prompt_nano", "saved_shift_nano"),
)
OWNERS = ("tenant", "agent", "lane", "tier", "route", "step", "key_id", "task_type")
_BY_OWNER = ", ".join(f"coalesce({name}, '') as {name}" for name in OWNERS)
_LEDGER = f"""
select (at at time zone 'UTC')::date as begins, {_BY_OWNER},
    count(*) filter (where kind in ('settle', 'unknown') and route is not null) as calls,
    count(*) filter (where kind = 'saved' and route is not null) as hits,
    sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens, sum(cached_tokens) as cached_tokens,
    coalesce(sum(nano) filter (where kind <> 'unknown'), 0) as cost_nano,
    coalesce(sum(nano) filter (where kind = 'unknown'), 0) as unknown_nano,
    coalesce(sum(saved_nano) filter (where cached = 'exact'), 0) as saved_cache_nano,
    coalesce(sum(saved_nano) filter (where cached = 'flight'), 0) as saved_flight_nano,
    coalesce(sum(saved_prompt_nano), 0) as saved_prompt_nano, coalesce(sum(saved_shift_nano), 0) as saved_shift_nano
from ledger where kind <> 'release' group by begins, {", ".join(f"coalesce({name}, '')" for name in OWNERS)}
"""


async def enter(connection: asyncpg.Connection, **given: Any) -> UUID:
    """Write one ledger entry; returns its call."""
    whole: dict[str, Any] = {
        "call_id": ids.new(),
        "kind": "settle",
        "run_id": None,
        "tenant": "default",
        "agent": "triage",
        "lane": "standard",
        "tier": "fast",
        "route": "r1",
        "step": "answer",
        "key_id": "k",
        "task_type": None,
        "nano": 100,
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 2,
        "cached": None,
        "saved_nano": None,
        "saved_prompt_nano": None,
        "saved_shift_nano": None,
        "at": datetime.fromtimestamp(clock.now(), UTC),
        **given,
    }
    await connection.execute(_ENTRY, *whole.values())
    call_id: UUID = whole["call_id"]
    return call_id


async def end_run(connection: asyncpg.Connection, **given: Any) -> UUID:
    """Write one run, ended unless `state` is None; returns its id."""
    whole: dict[str, Any] = {
        "id": ids.new(),
        "tenant": "default",
        "agent": "triage",
        "metadata": None,
        "at": datetime.fromtimestamp(clock.now(), UTC),
        "state": "succeeded",
        "llm_calls": 1,
        "cost_nano": 100,
        **given,
    }
    if whole["state"] is None:
        await connection.execute(_RUN.replace("$5, $7", "null, $7"), *whole.values())
    else:
        await connection.execute(_RUN, *whole.values())
    run_id: UUID = whole["id"]
    return run_id


async def count_all(rollup: Rollup) -> None:
    """Count until there is nothing to count."""
    while (await rollup.count()).anything:
        pass


def _rows(rows: Sequence[asyncpg.Record], keys: Sequence[str], sums: Sequence[str]) -> dict[tuple[Any, ...], Any]:
    return {tuple(row[key] for key in keys): tuple(int(row[name]) for name in sums) for row in rows}


async def by_the_ledger(admin: asyncpg.Connection) -> dict[tuple[Any, ...], Any]:
    """What the ledger says was used, by day and owner."""
    return _rows(await admin.fetch(_LEDGER), ("begins", *OWNERS), SUMS)


async def by_usage(admin: asyncpg.Connection) -> dict[tuple[Any, ...], Any]:
    """What usage says, by day and owner."""
    return _rows(
        await admin.fetch("select * from usage_call where span = 'day' and detail = 'owner'"), ("begins", *OWNERS), SUMS
    )


async def months_agree(admin: asyncpg.Connection) -> bool:
    """Whether each month's rows are the sums of its days before the fold, in all three tables."""
    for table, keys, sums in (
        ("usage_call", ("detail", *OWNERS), SUMS),
        (
            "usage_run",
            ("detail", "part", "tenant", "agent", "lane", "key_id", "task_type", "state", "tier", "route", "step"),
            ("runs", "calls", "cost_nano"),
        ),
        ("usage_spread", ("tenant", "agent", "measure", "bucket"), ("runs",)),
    ):
        summed = ", ".join(f"sum({name}) as {name}" for name in sums)
        days = f"""
            select date_trunc('month', begins::timestamp)::date as begins, {", ".join(keys)}, {summed} from {table}
            where span = 'day' and begins < (select folded from usage_cursor) group by 1, {", ".join(keys)}"""
        months = f"select * from {table} where span = 'month'"
        if _rows(await admin.fetch(days), ("begins", *keys), sums) != _rows(
            await admin.fetch(months), ("begins", *keys), sums
        ):
            return False
    return True


async def totals_agree(admin: asyncpg.Connection) -> bool:
    """Whether rows that tell less apart are the sums of those that tell all apart, in all three tables."""
    for table, less, key, sums in (
        ("usage_call", "whole", "agent || lane || tier || route || step || task_type", SUMS),
        ("usage_call", "tenant", "tenant || tier", SUMS),
        ("usage_run", "whole", "agent || part || state || tier || route || step", ("runs", "calls", "cost_nano")),
        ("usage_run", "tenant", "tenant || part || tier", ("runs", "calls", "cost_nano")),
        ("usage_spread", "whole", "agent || measure || bucket", ("runs",)),
    ):
        detail = "case tenant when '' then 'whole' else 'owner' end" if table == "usage_spread" else "detail"
        parts = "where part in ('run', 'tier')" if (table, less) == ("usage_run", "tenant") else ""
        summed = ", ".join(f"sum({name}) as {name}" for name in sums)
        rows = await admin.fetch(
            f"select {detail} as detail, span, begins, {key} as key, {summed} from {table} {parts} group by 1, 2, 3, 4"
        )
        found = [
            _rows([row for row in rows if row["detail"] == one], ("span", "begins", "key"), sums)
            for one in (less, "owner")
        ]
        if found[0] != found[1]:
            return False
    return True
