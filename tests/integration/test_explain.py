"""The plans of the hot queries over 1,000,000 queued runs of 10,000 tenants: no table scanned, no backlog sorted."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from record_kit import clock, drop_database, ids, make_database, new_claims, new_run, session
from tollway.domain.clock import AnchoredClock
from tollway.record.accept import run_columns
from tollway.record.backlog import read_backlog
from tollway.record.database import Database, DatabaseOptions
from tollway.record.server import EmbeddedPostgres
from tollway.record.sql import query

pytestmark = [pytest.mark.slow]

BACKLOG = 1_000_000
TENANTS = 10_000
SMALL = 1_000
BIG_TABLES = re.compile(r"^(queue|flow|answer|(run|step|event|ledger)(_\d+)?)$")
SORT_ROWS_MAX = 50_000

_HISTORY = """
insert into tenant (id) select 't' || n from generate_series(1, {tenants}) n on conflict do nothing;
insert into flow (lane, class, tenant, vtime)
    select 'standard', 'triage', 't' || n, n / 1000.0 from generate_series(1, {tenants}) n;
insert into queue (run_id, lane, class, tenant, place, est_nano)
    select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint - 3600000 + n / 1000), 12, '0') || '7000a000'
            || lpad(to_hex(n), 12, '0'))::uuid,
        'standard', 'triage', 't' || (1 + n % {tenants}),
        (extract(epoch from now()) * 1000000)::bigint - {backlog} + n, 1000
    from generate_series(1, {backlog}) n;
"""
_RUNS = """
insert into run (id, tenant, agent, version, lane, key_id, input, created_at, max_attempts)
    select run_id, tenant, 'triage', '1', 'standard', 'k', '', now(), 3 from queue order by run_id limit 100000;
"""
_ROWS_BESIDE = """
insert into event (run_id, seq, type, at, actor_kind, actor_id)
    select id, 1, 'accepted', created_at, 'key', 'k' from run;
insert into step (run_id, n, path, kind, name, attempt, fence, call_id, started_at)
    select id, 1, '1', 'llm', 'answer', 1, 1, id, created_at from run limit 50000;
insert into ledger (call_id, kind, run_id, n, tenant, nano, at)
    select id, 'settle', id, 1, tenant, 1, now() from run limit 50000;
insert into answer (key, tenant, agent, value, expires_at)
    select sha256(n::text::bytea), 't1', 'a@1', '', now() + n * interval '0.1 s' from generate_series(-5000, 50000) n;
insert into process (role, host, pid, lease_ttl_s) select 'worker', 'h', n, 12 from generate_series(1, 5) n;
update queue set state = 1, worker = 3, fence = 65536
    where run_id in (select run_id from queue order by run_id limit 1000);
update queue set gate = 'time', opens_at = now() + interval '1 hour'
    where run_id in (select run_id from queue order by run_id desc limit 5000);
update queue set expires_at = now() + interval '1 hour'
    where run_id in (select run_id from queue order by run_id desc limit 20000);
"""

_FILLED = """
select relname::text from pg_class
where relkind = 'r' and relnamespace = 'public'::regnamespace and pg_relation_size(oid) > 0
"""


async def fill(server: EmbeddedPostgres, template: str, name: str, backlog: int, tenants: int) -> str:
    """A clone with this much queued; returns the processes' URL of it."""
    await make_database(server, name, template)
    async with session(server.url_of("postgres", name)) as admin:
        await admin.execute(
            "set synchronous_commit = off; drop index queue_runnable; alter table queue drop constraint queue_pkey"
        )
        await admin.execute(_HISTORY.format(backlog=backlog, tenants=tenants))
        await admin.execute(
            "set maintenance_work_mem = '512MB'; alter table queue add primary key (run_id); "
            "create index queue_runnable on queue (lane, class, tenant, place) where state = 0 and gate is null"
        )
        await admin.execute(_RUNS)
        if backlog == BACKLOG:
            await admin.execute(_ROWS_BESIDE)
        # as autovacuum does: what is empty is left alone
        filled = [row[0] for row in await admin.fetch(_FILLED)]
        await admin.execute(f"vacuum analyze {', '.join(filled)}")
    return server.url_of("tollway_app", name)


@pytest.fixture(scope="module")
def big(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """A database with the great backlog."""
    yield asyncio.run(fill(postgres, template, "explain_big", BACKLOG, TENANTS))
    asyncio.run(drop_database(postgres, "explain_big"))


@pytest.fixture(scope="module")
def small(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """A database with a small backlog in as many lines as a claim looks at, at least."""
    yield asyncio.run(fill(postgres, template, "explain_small", SMALL, 100))
    asyncio.run(drop_database(postgres, "explain_small"))


@pytest.fixture
async def planner(big: str) -> AsyncIterator[asyncpg.Connection]:
    """A session that plans as processes do: once, for any parameters."""
    async with session(big) as connection:
        await connection.execute("set plan_cache_mode = force_generic_plan")
        yield connection


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a plan."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def plan_of(connection: asyncpg.Connection, name: str) -> dict[str, Any]:
    """The generic plan of a named query."""
    text = query(name).rstrip().rstrip(";")
    wanted = max((int(n) for n in re.findall(r"\$(\d+)", text)), default=0)
    await connection.execute(f"prepare it as {text}")
    try:
        arguments = ", ".join(["null"] * wanted)
        row = await connection.fetchval(f"explain (format json) execute it{f'({arguments})' if wanted else ''}")
    finally:
        await connection.execute("deallocate it")
    return dict(json.loads(row)[0]["Plan"])


def faults(plan: dict[str, Any]) -> list[str]:
    """What must not be in a hot query's plan."""
    found = []
    for node in nodes(plan):
        kind, table = node["Node Type"], node.get("Relation Name", "")
        if kind == "Seq Scan" and BIG_TABLES.match(table):
            found.append(f"Seq Scan of {table}")
        whole = "Index Cond" not in node and "Recheck Cond" not in node and "TID Cond" not in node
        if kind.startswith("Bitmap Heap") and whole and BIG_TABLES.match(table):
            found.append(f"{kind} of all {table}")
        if kind in ("Sort", "Hash", "WindowAgg") and node["Plan Rows"] > SORT_ROWS_MAX:
            found.append(f"{kind} of {node['Plan Rows']} rows")
    return found


@pytest.mark.parametrize(
    "name",
    [
        "accept_runs",
        "accept_keyed_runs",
        "find_standing",
        "list_rivals",
        "list_pressing_keys",
        "look_through_keys",
        "find_idempotent",
        "claim_runs",
        "look_for_work",
        "oldest_place",
        "find_full",
        "find_stuck",
        "find_cancelled",
        "turn_flows",
        "lock_lines",
        "idle_lines",
        "true_up",
        "raise_floor",
        "claim_alone",
        "find_alone",
        "write_journal",
        "complete_runs",
        "find_writes",
        "read_steps",
        "requeue_runs",
        "open_due",
        "next_due",
        "find_expired",
        "reap_worker",
        "find_poison",
        "held_by",
        "cancelled_held",
        "end_queued_runs",
        "request_cancel",
        "find_live",
        "lock_free_runs",
        "lock_ended_runs",
        "read_letters",
        "read_replayed",
        "copy_steps",
        "tell_replayed",
        "start_journals",
        "discard_letters",
        "list_letters",
        "read_runs",
        "list_run_ids_of_tenant",
        "list_run_ids",
        "list_live_run_ids",
        "read_events",
        "list_steps",
        "beat_process",
        "find_answers",
        "keep_answers",
        "sweep_answers",
    ],
)
async def test_hot_queries_read_by_index(planner: asyncpg.Connection, name: str) -> None:
    """The generic plan scans no queue, flow, run, step, event, ledger or answers whole, and sorts no backlog."""
    plan = await plan_of(planner, name)
    assert faults(plan) == []


async def test_the_backlog_is_counted_in_one_pass(planner: asyncpg.Connection, big: str) -> None:
    """The count reads the queue once, into a hash, and sorts nothing; it finds every run, in time for its time-out."""
    async with planner.transaction():
        await planner.fetch(query("prepare_backlog_read"))
        plan = await plan_of(planner, "read_backlog")
    kinds = [node["Node Type"] for node in nodes(plan)]
    assert not {"Sort", "Incremental Sort", "Gather", "Nested Loop"} & set(kinds)
    assert [node["Node Type"] for node in nodes(plan) if node.get("Relation Name") == "queue"] == ["Seq Scan"]
    database = Database(DatabaseOptions(big), AnchoredClock())
    await database.start()
    try:
        counted = (await read_backlog(database, clock)).of()
    finally:
        await database.stop()
    assert counted.queued + counted.running == BACKLOG
    assert (counted.running, counted.gated) == (1000, {"time": 5000})


async def test_the_check_finds_a_bad_plan(planner: asyncpg.Connection) -> None:
    """The judge of plans condemns the naive claim."""
    naive = "select run_id from queue where state = 0 order by est_nano, place"
    row = await planner.fetchval(f"explain (format json) {naive}")
    assert len(faults(json.loads(row)[0]["Plan"])) == 2


async def claim_buffers(url: str) -> int:
    """Buffers that a claim of 20 touches, once caches are warm: the median of a few."""
    database = Database(DatabaseOptions(url), AnchoredClock())
    await database.start()
    try:
        _, worker = await new_claims(database)
        seen = []
        async with database.connection() as connection:
            for number in range(9):
                async with connection.transaction():
                    row = await connection.fetchval(
                        "explain (analyze, buffers, timing off, format json) " + query("claim_runs").rstrip(";"),
                        worker, "standard", ["triage"], 20, [0.0], number, 64, None, [], [], [], None,
                    )  # fmt: skip
                plan = json.loads(row)[0]["Plan"]
                assert plan["Actual Rows"] == 20
                seen.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
        return sorted(seen)[len(seen) // 2]
    finally:
        await database.stop()


async def test_a_claim_touches_as_much_whatever_the_backlog(big: str, small: str) -> None:
    """A claim of 20 runs touches at 1,000,000 queued runs at most half as many pages again as at 1,000 (P8)."""
    assert await claim_buffers(big) <= 1.5 * await claim_buffers(small)


async def test_an_accept_is_planned_the_same_when_it_runs(planner: asyncpg.Connection) -> None:
    """Accepting a batch beside the backlog touches pages by the row, not by the table."""
    runs = [new_run(id=ids.new(), created_at=clock.now()) for _ in range(20)]
    async with planner.transaction():
        row = await planner.fetchval(
            "explain (analyze, buffers, timing off, format json) " + query("accept_runs").rstrip(";"),
            *run_columns(runs),
        )
    plan = json.loads(row)[0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 20 * 200


async def test_a_key_passes_on_the_same_whoever_else_waits(planner: asyncpg.Connection) -> None:
    """P8: where 100,000 of 1,000,000 queued runs wait for one key, passing it on touches pages by the row."""
    undone = planner.transaction()
    await undone.start()
    await planner.execute(
        "with few as (select run_id from queue where gate is null and state = 0 limit 100000) update queue q "
        "set gate = 'key', concurrency_key = 'doc', tenant = 'default' from few s where s.run_id = q.run_id"
    )
    await planner.execute("insert into concurrency values ('default', 'doc', gen_random_uuid())")
    passing = (
        "explain (analyze, buffers, timing off, format json) select * from pass_keys(array['default'], array['doc'])"
    )
    plans = []
    for last in ("select", "analyze queue"):  # planned by statistics from before they came, and by new ones
        await planner.execute(last)
        plans.append(json.loads(await planner.fetchval(passing))[0]["Plan"])
        await planner.execute("update concurrency set holder = gen_random_uuid()")
    await undone.rollback()
    assert [plan["Actual Rows"] for plan in plans] == [1, 1]
    assert max(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans) < 1000
