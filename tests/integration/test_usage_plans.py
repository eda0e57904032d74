"""What usage reads: reports their own sums alone, by key; passes the newest pages of the ledger and of runs."""

import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from tollway.record.sql import query

SUMS = {"usage_call", "usage_run", "usage_spread"}
GROWING = re.compile(r"^(run|step|event|ledger|queue)(_\d+)?$")
ROWS = 20_000
_FILL = f"""
insert into ledger (call_id, kind, run_id, n, tenant, nano, at, xid)
    select (left(uuid7_floor(now())::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, 'settle',
        (left(uuid7_floor(now())::text, 24) || lpad(to_hex(n / 2), 12, '0'))::uuid, 1, 'default', 1, now(), 3 + n
    from generate_series(1, {ROWS}) n;
insert into run (
    id, tenant, agent, version, lane, key_id, input, created_at, max_attempts, state, ended_at, ended_xid
)
    select (left(uuid7_floor(now())::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, 'default', 'a', '1', 'standard', 'k',
        '', now(), 3, 'succeeded', now(), 3 + n
    from generate_series(1, {ROWS}) n;
select summarize_xids();
insert into usage_call
    select 'owner', 'day', current_date - d, 't' || t, 'a', 'l', 'r', 't', 's', 'k', 'y', 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1
    from generate_series(0, 99) d, generate_series(1, 100) t;
insert into usage_run
    select 'owner', 'run', 'day', current_date - d, 't' || t, 'a', 'l', 'k', 'y', 'succeeded', '', '', '', 1, 1, 1
    from generate_series(0, 99) d, generate_series(1, 100) t;
insert into usage_spread select 'day', current_date - d, 't' || t, 'a', 'cost', 1, 1
    from generate_series(0, 99) d, generate_series(1, 100) t;
vacuum analyze
"""


@pytest.fixture
async def filled(admin: asyncpg.Connection) -> asyncpg.Connection:
    """A session that plans as processes do, on a record of some size."""
    for text in _FILL.split(";"):
        await admin.execute(text)
    await admin.execute("set enable_seqscan = off; set plan_cache_mode = force_generic_plan")
    return admin


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a plan."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def scans(connection: asyncpg.Connection, name: str) -> list[dict[str, Any]]:
    """The nodes of a query's generic plan that read a table or an index."""
    text = query(name).rstrip().rstrip(";")
    wanted = max((int(n) for n in re.findall(r"\$(\d+)", text)), default=0)
    if wanted:
        await connection.execute(f"prepare {name} as {text}")
        text = f"execute {name}({', '.join(['null'] * wanted)})"
    plan = json.loads(await connection.fetchval(f"explain (format json) {text}"))[0]["Plan"]
    return [node for node in nodes(plan) if "Relation Name" in node or "Index Name" in node]


@pytest.mark.parametrize("name", ["read_usage", "read_usage_runs", "read_usage_spread"])
async def test_a_report_reads_sums_alone_and_by_key(filled: asyncpg.Connection, name: str) -> None:
    """No report touches a table that grows with runs, and each finds its days' rows by their key. (P9)"""
    found = await scans(filled, name)
    read = {node["Relation Name"] for node in found if "Relation Name" in node}
    assert read - {"usage_cursor"} <= SUMS
    assert read & SUMS
    conditions = [node["Index Cond"] for node in found if node.get("Relation Name") in SUMS and "Index Cond" in node]
    conditions += [node["Index Cond"] for node in found if node["Node Type"] == "Bitmap Index Scan"]
    assert len(conditions) == len(read & SUMS)
    assert all("begins = " in condition and "tenant >= " in condition for condition in conditions)


@pytest.mark.parametrize("name", ["find_uncounted", "count_entries", "count_runs"])
async def test_a_pass_reads_the_newest_pages(filled: asyncpg.Connection, name: str) -> None:
    """What is new is found by its transaction's number, a run's entries by the run; nothing is scanned. (P8)"""
    found = await scans(filled, name)
    growing = [node for node in found if GROWING.match(node.get("Relation Name", ""))]
    assert growing
    assert {node["Node Type"] for node in growing} <= {"Bitmap Heap Scan", "Index Scan"}
    for node in growing:
        if node["Node Type"] == "Index Scan":
            assert "run_id = ANY" in node["Index Cond"]
    for node in found:
        if node["Node Type"] == "Bitmap Index Scan":
            assert re.search(r"xid|run_id|call_id", node["Index Cond"])
