"""What usage costs: reports over a month of 50,000,000 runs as they are summed up, and counting the entries of a run.

`.venv/bin/python bench/usage.py` starts a PostgreSQL of its own, fills the sums with what 1,000 tenants with 5 agents each
(two tiers, three routes, two steps, two task types) leave behind in 45 days, asks for reports as the API does, and then
counts entries and runs in passes. Figures are milliseconds, the median of five.
"""

# ruff: noqa: E501 - statements as wide as the tables they fill

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import Any

import asyncpg

from tollway.domain.clock import AnchoredClock
from tollway.domain.usage import GROUPS
from tollway.record.database import Database, DatabaseOptions
from tollway.record.migrate import migrate
from tollway.record.rollup import Rollup
from tollway.record.sql import query
from tollway.record.usage import UsageQuery, read_usage, read_usage_runs
from tollway.testing.postgres import ephemeral_postgres

FIRST = date(2026, 9, 1)
DAYS = 45
TIMES = 5
RUNS_A_MONTH = 50_000_000

# of each agent: task types x (a step on the cheap tier's two routes, a step on the dear tier's one); tenant 0 is all of them
_CALLS = """
insert into usage_call
select case t when 0 then 'whole' else 'owner' end, 'day', $1::date + d, case t when 0 then '' else 't' || t end, 'agent-' || a,
    'standard', c.tier, c.route, c.step, case t when 0 then '' else 'key-' || t end, 'type-' || y, r, r / 10, r * 900, r * 120,
    r * 100, r * 41000, r * 10, r * 900, r * 40, r * 300, 0
from generate_series(0, $2::int - 1) d, generate_series(0, {tenants}) t, generate_series(1, 5) a, generate_series(1, 2) y,
    (values ('fast', 'f1', 'classify'), ('fast', 'f2', 'classify'), ('powerful', 'p1', 'answer')) c (tier, route, step),
    (select ({runs} / (30 * {tenants} * 10))::bigint as r) r
"""
_CALLS_BY_TENANT = """
insert into usage_call
select 'tenant', span, begins, tenant, '', '', tier, '', '', '', '', sum(calls), sum(hits), sum(input_tokens), sum(output_tokens),
    sum(cached_tokens), sum(cost_nano), sum(unknown_nano), sum(saved_cache_nano), sum(saved_flight_nano), sum(saved_prompt_nano),
    sum(saved_shift_nano)
from usage_call where detail = 'owner' and begins between $1::date and $1::date + $2::int group by 2, 3, 4, 7
"""
_RUNS = """
insert into usage_run
select case t when 0 then 'whole' else 'owner' end, p.part, 'day', $1::date + d, case t when 0 then '' else 't' || t end,
    'agent-' || a, 'standard', case t when 0 then '' else 'key-' || t end, 'type-' || y, p.state, p.tier, p.route, p.step, r, r * 3,
    r * 90000
from generate_series(0, $2::int - 1) d, generate_series(0, {tenants}) t, generate_series(1, 5) a, generate_series(1, 2) y,
    (values ('run', 'succeeded', '', '', ''), ('run', 'failed', '', '', ''), ('tier', '', 'fast', '', ''),
        ('tier', '', 'powerful', '', ''), ('route', '', 'fast', 'f1', ''), ('route', '', 'fast', 'f2', ''),
        ('route', '', 'powerful', 'p1', ''), ('step', '', '', '', 'classify'), ('step', '', '', '', 'answer'),
        ('tier step', '', 'fast', '', 'classify'), ('tier step', '', 'powerful', '', 'answer'),
        ('route step', '', 'fast', 'f1', 'classify'), ('route step', '', 'fast', 'f2', 'classify'),
        ('route step', '', 'powerful', 'p1', 'answer')) p (part, state, tier, route, step),
    (select ({runs} / (60 * {tenants} * 10))::bigint as r) r
"""
_RUNS_BY_TENANT = """
insert into usage_run
select 'tenant', part, span, begins, tenant, '', '', '', '', '', tier, '', '', sum(runs), sum(calls), sum(cost_nano)
from usage_run
where detail = 'owner' and part in ('run', 'tier') and begins between $1::date and $1::date + $2::int group by 2, 3, 4, 5, 11
"""
_SPREAD = """
insert into usage_spread
select 'day', $1::date + d, case t when 0 then '' else 't' || t end, 'agent-' || a, m.measure, m.first + b, 1000
from generate_series(0, $2::int - 1) d, generate_series(0, {tenants}) t, generate_series(1, 5) a,
    (values ('calls', 1, 4), ('cost', 360, 40)) m (measure, first, wide), generate_series(0, m.wide - 1) b
"""
_KEYS = {
    "usage_call": "detail, span, begins, tenant, agent, lane, tier, route, step, key_id, task_type",
    "usage_run": "detail, part, span, begins, tenant, agent, lane, key_id, task_type, state, tier, route, step",
    "usage_spread": "span, begins, tenant, agent, measure, bucket",
}
_ENTRIES = """
with ids as (
    select (left(uuid7_floor(now())::text, 24) || lpad(to_hex(n), 12, '0'))::uuid as id, n from generate_series($1::int, $2::int) n
), runs as (
    insert into run (id, tenant, agent, version, lane, key_id, input, created_at, max_attempts, state, ended_at, llm_calls, cost_nano, ended_xid)
    select id, 't' || n % $3, 'agent-' || n % 5, '1', 'standard', 'k', '', now(), 3, 'succeeded', now(), 1, n, this_xid() from ids
)
insert into ledger (call_id, kind, run_id, n, tenant, agent, lane, tier, route, step, key_id, nano, input_tokens, output_tokens, at)
select id, 'settle', id, 1, 't' || n % $3, 'agent-' || n % 5, 'standard', 'fast', 'f' || n % 2, 'classify', 'k', n, 900, 120, now() from ids
"""


async def median_ms(ask: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """The median time of a few, after one to warm up, and the answer."""
    answer = await ask()
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        answer = await ask()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took), answer


async def fill(admin: asyncpg.Connection, tenants: int) -> None:
    """Days of sums, folded into their months but for the last."""
    await admin.execute("set synchronous_commit = off; set maintenance_work_mem = '256MB'")
    for table in _KEYS:
        await admin.execute(f"alter table {table} drop constraint {table}_pkey")
    for text in (_CALLS, _CALLS_BY_TENANT, _RUNS, _RUNS_BY_TENANT, _SPREAD):
        await admin.execute(text.format(tenants=tenants, runs=RUNS_A_MONTH), FIRST, DAYS)
    for table, key in _KEYS.items():
        await admin.execute(f"alter table {table} add primary key ({key})")
    for n in range(DAYS - 1):
        await admin.execute(query("fold_usage"), FIRST + timedelta(days=n))
    await admin.execute("vacuum analyze usage_call, usage_run, usage_spread")


async def reports(database: Database) -> None:
    """Reports of a calendar month, and of thirty days across two."""
    month, across = (date(2026, 9, 1), date(2026, 10, 1)), (date(2026, 9, 16), date(2026, 10, 16))
    asked: list[tuple[str, tuple[str, ...], dict[str, str]]] = [
        ("total", (), {}),
        ("by tenant", ("tenant",), {}),
        ("by tenant, tier", ("tenant", "tier"), {}),
        ("by tenant, agent", ("tenant", "agent"), {}),
        ("by agent, tier", ("agent", "tier"), {}),
        ("by tenant, agent, route, step", ("tenant", "agent", "route", "step"), {}),
        ("by every group but day", GROUPS[1:], {}),
        ("by day", ("day",), {}),
        ("one tenant, by day, agent, tier", ("day", "agent", "tier"), {"tenant": "t7"}),
    ]
    print(f"{'report':36} {'a month':>10} {'30 days across two':>20}   rows")
    for name, groups, filters in asked:
        took = []
        for begin, end in (month, across):
            wanted = UsageQuery(begin, end, groups, filters)
            ms, rows = await median_ms(lambda wanted=wanted: read_usage(database, wanted, None, 500))  # type: ignore[misc]
            took.append(ms)
        print(f"{name:36} {took[0]:8.1f} ms {took[1]:17.1f} ms   {len(rows)}")
    took = []
    for begin, end in (month, across):
        ms, rows = await median_ms(lambda: read_usage_runs(database, UsageQuery(begin, end)))  # noqa: B023
        took.append(ms)
    print(f"{'percentiles by agent':36} {took[0]:8.1f} ms {took[1]:17.1f} ms   {len(rows)}")


async def passes(admin: asyncpg.Connection, database: Database, tenants: int) -> None:
    """The cost of counting: passes over batches of ended runs with one call each."""
    rollup = Rollup(database)
    while (await rollup.count()).anything:
        pass
    print(f"\n{'counting, runs of one call a pass':36} {'a pass':>10} {'a run':>10}")
    start = 1
    for runs in (20, 200, 2000, 10_000):
        took = []
        for _ in range(TIMES):
            for first in range(start, start + runs, 20):
                await admin.execute(_ENTRIES, first, first + 19, tenants)
            start += runs
            began = time.perf_counter()
            counted = await rollup.count()
            took.append((time.perf_counter() - began) * 1000)
            assert counted.entries == counted.runs == runs
        ms = statistics.median(took)
        print(f"{runs:36} {ms:8.1f} ms {ms / runs:7.3f} ms")
    await rollup.summarize()
    ms, _ = await median_ms(rollup.awaits)
    print(f"{'a look with nothing new':36} {ms:8.1f} ms")


async def main(url: str, tenants: int) -> None:
    """Fill, ask, count."""
    await migrate(url)
    database = Database(DatabaseOptions(url), AnchoredClock())
    await database.start()
    admin = await asyncpg.connect(url)
    began = time.perf_counter()
    await fill(admin, tenants)
    rows = await admin.fetch("select span, count(*) from usage_call group by 1 order by 1")
    counts = ", ".join(f"{row['count']:,} of a {row['span']}" for row in rows)
    print(f"usage_call: {counts}; filled in {time.perf_counter() - began:.0f} s\n")
    await reports(database)
    await passes(admin, database, tenants)
    await admin.close()
    await database.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=1000)
    with ephemeral_postgres() as server:
        asyncio.run(main(server.url_of("tollway", "tollway"), parser.parse_args().tenants))
