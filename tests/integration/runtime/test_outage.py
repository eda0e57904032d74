"""The database goes away under running agents, and runs that kill their process run alone."""

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import pytest

import tollway
from record_kit import accept_all, claim, event_types, new_claims, new_run, session
from runtime_kit import LANES, crew, ended, ledger_of, until
from tollway.hotstate.answers import PostgresAnswers
from tollway.hotstate.broadcast import Broadcast
from tollway.record.database import Database
from tollway.record.embedded.cluster import EmbeddedOptions
from tollway.record.migrate import migrate
from tollway.record.processes import register_process
from tollway.record.server import EmbeddedPostgres
from tollway.record.upkeep import Upkeep
from tollway.runtime.isolation import Isolation, Scope, isolate_program
from tollway.runtime.keeper import Keeper, KeeperOptions
from tollway.runtime.registry import Registry
from tollway.simulator.provider import RunningSim


async def test_results_outlive_an_outage_of_the_database(tmp_path: Path, agents: Registry, sim: RunningSim) -> None:
    """Calls that end while Postgres is dead keep their results, which are written when it is back: none is repeated."""

    @tollway.agent
    async def patient(run: tollway.Run, number: int) -> int:
        await run.llm(f"question {number}", tier="brief")
        return number

    server = EmbeddedPostgres(tmp_path / "data", EmbeddedOptions(shared_buffers_mb=64))
    await server.start()
    try:
        await migrate(server.url)
        async with crew(server.app_url, agents, sim) as one:
            runs = [await one.submit("patient", input=b"%d" % number) for number in range(10)]
            await until(lambda: sim.ledger.in_flight == 10)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await until(lambda: len(sim.ledger) == 10)
            await until(lambda: server.pid is None)
            assert one.worker.running == 10
            supervising = asyncio.create_task(server.supervise())
            async with session(await reachable(server)) as admin:
                for number, run_id in enumerate(runs):
                    row = await ended(admin, run_id)
                    assert (row["state"], row["output"], row["attempt"]) == ("succeeded", b"%d" % number, 1)
                    assert await ledger_of(admin, run_id) == ["settle"]
            await until(lambda: one.worker.claiming)
            late = await one.submit("patient", input=b"11")
            async with session(server.url) as admin:
                assert (await ended(admin, late))["state"] == "succeeded"
        assert len(sim.ledger) == 11
    finally:
        await server.stop()
    await supervising


async def reachable(server: EmbeddedPostgres) -> str:
    """The owner's URL, once the server answers again."""
    async with asyncio.timeout(30):
        while True:
            try:
                await (await asyncpg.connect(server.url)).close()
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.05)
            else:
                return server.url


_LONELY = """
import os, signal
import tollway

@tollway.agent
async def lonely(run: tollway.Run, deadly: bool) -> int:
    if deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()
"""


@pytest.mark.parametrize("deadly", [False, True])
async def test_a_run_that_lost_two_workers_runs_alone(
    deadly: bool, database: Database, admin: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tollway isolate` gives it a process of its own; if that is lost too the run is dead, at its third attempt."""
    (tmp_path / "lonely_agents.py").write_text(_LONELY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLLWAY_DATABASE__URL", database.options.url)
    run = new_run(agent="lonely", input=b"true" if deadly else b"false")
    await accept_all(database, [run])
    upkeep = Upkeep(database, await register_process(database, "keeper", 60.0))
    for loss in (1, 2):
        claims, worker = await new_claims(database)
        assert len((await claim(claims, agent="lonely")).claims) == 1
        assert await upkeep.reap(worker) == [(run.id, "standard", loss)]
    assert (await claim(claims, agent="lonely")).claims == []
    broadcast = Broadcast(database.options.url)
    program = isolate_program(["--agents", "lonely_agents"])
    isolation = Isolation(database, claims, broadcast, program, Scope(LANES, ["lonely"]))
    keeper = Keeper(upkeep, PostgresAnswers(database), broadcast, database.clock, KeeperOptions(0.1, {}, 1 << 20))
    await keeper.start()
    await isolation.start()
    try:
        row = await ended(admin, run.id, within_s=40)
    finally:
        await isolation.stop()
        await isolation.stop()
        await keeper.stop()
    assert row["attempt"] == 3
    types = await event_types(admin, run.id)
    if deadly:
        assert (row["state"], row["error_code"]) == ("dead", "poison")
        assert types[-3:] == ["claimed", "retried", "dead"]
    else:
        assert row["state"] == "succeeded"
        assert int(row["output"]) != os.getpid()
        assert types[-2:] == ["claimed", "succeeded"]
    assert await admin.fetchval("select count(*) from event where data like '%\"alone\":true%'") == 1
    assert await admin.fetchval("select count(*) from queue") == 0
