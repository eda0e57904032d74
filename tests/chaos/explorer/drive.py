"""Plays one plan on real processes, and tells what is wrong with what they left."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from checks import LOST_MAX, faults, lost_workers
from history import History, RunHistory, read_history
from wire import Answer, Cut, ask, free_port

from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import DatabaseUnavailable
from tollway.record.database import Database, DatabaseOptions
from tollway.record.processes import retire_processes
from tollway.record.server import EmbeddedPostgres

from .plan import HEARTBEAT_S, LEASE_TTL_S, Disturbance, Plan, Submit
from .zygote import Casting, Zygote

REST_WITHIN_S = 40.0
LEAVE_WITHIN_S = 10.0
ADMIN_KEY = "tw_explorer_0123456789abcdefghijklmnop"
_REPLACED = 75

_SETTINGS = """[server]
port = {port}

[database]
url = "{url}"

[worker]
heartbeat_s = {heartbeat_s}
lease_ttl_s = {lease_ttl_s}
grace_s = {grace_s}

[telemetry]
log_format = "json"

[providers.sim]
kind = "openai"
base_url = "http://127.0.0.1:{sim_port}/v1"

[[routes]]
name = "sim-fast"
tier = "fast"
provider = "sim"
model = "sim-fast"

[prices."sim/sim-fast"]
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.60
"""


@dataclass(slots=True)
class Verdict:
    """How an exploration went: what is wrong, what happened when, and of which kinds of disturbance how many came."""

    seed: int
    faults: list[str]
    timeline: list[str]
    took_s: float
    came: Counter[str]


@dataclass(slots=True)
class _Sent:
    """A request and the runs it was answered with."""

    submit: Submit
    runs: list[UUID] = field(default_factory=list)
    cancelled: bool = False


class Exploration:
    """One seed's processes, clients and disturbances."""

    def __init__(self, plan: Plan, zygote: Zygote, server: EmbeddedPostgres, database: str) -> None:
        self._plan = plan
        self._zygote = zygote
        self._server = server
        self._database = database
        self._folder = Path(tempfile.mkdtemp(prefix=f"tollway-crash-{plan.seed}-"))
        self._port, self._sim_port = free_port(), free_port()
        self._began = time.monotonic()
        self._timeline: list[str] = []
        self._faults: list[str] = []
        self._came: Counter[str] = Counter()
        self._pids: dict[str, int] = {}
        self._lives: Counter[str] = Counter()
        self._ended: dict[str, asyncio.Event] = {}
        self._stopping = False
        self._starts: set[asyncio.Task[None]] = set()
        self._sent = [_Sent(submit) for submit in plan.submits]

    async def run(self) -> Verdict:
        """Play the plan; the processes are gone afterwards, and so is the folder unless something is wrong."""
        try:
            async with asyncio.timeout(REST_WITHIN_S + 4 * LEAVE_WITHIN_S):
                await self._play()
        except Exception as error:
            self._faults.append(f"the exploration itself broke: {type(error).__name__}: {error}")
        finally:
            self._stopping = True
            for task in self._starts:
                task.cancel()
            await asyncio.gather(*self._starts, return_exceptions=True)
            for pid in self._pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        if self._faults:
            self._note(f"logs are kept in {self._folder}")
        else:
            shutil.rmtree(self._folder, ignore_errors=True)
        return Verdict(self._plan.seed, self._faults, self._timeline, time.monotonic() - self._began, self._came)

    async def _play(self) -> None:
        self._write_settings()
        await self._start("sim")
        for role in self._plan.roles:
            await self._start(role)
        await self._until_up()
        self._began = time.monotonic()
        acts: list[Coroutine[Any, Any, None]] = [self._submit(sent) for sent in self._sent]
        acts += [self._disturb(one) for one in self._plan.disturbances]
        acts += [self._cancel(sent) for sent in self._sent if sent.submit.cancel_at_s is not None]
        await asyncio.gather(*acts)
        rested = await self._until_rest()
        history = await self._read()
        self._faults += faults(history) if rested else _unfinished(history)
        self._judge(history)
        if self._faults:
            self._tell_runs(history)
        await self._leave()

    # processes

    async def _start(self, role: str) -> None:
        lives = self._plan.lives.get(role, ())
        life = self._lives[role]
        failpoints = lives[life] if life < len(lives) else ""
        self._lives[role] += 1
        ended = self._ended[role] = asyncio.Event()
        config = self._folder / ("sim.json" if role == "sim" else "tollway.toml")
        env = {
            "EXPLORER_EXECUTIONS": str(self._executions),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }
        casting = Casting(role, str(config), env, failpoints, str(self._folder / f"{role}.log"))

        def on_end(code: int) -> None:
            ended.set()
            self._note(f"{role} (pid {self._pids.get(role)}) ended with {code}")
            if failpoints and code == -signal.SIGKILL:
                self._came[failpoints.partition("=")[0]] += 1
            if not self._stopping:
                task = asyncio.get_running_loop().create_task(self._again(role, self._pids[role]))
                self._starts.add(task)
                task.add_done_callback(self._starts.discard)

        self._pids[role] = await self._zygote.spawn(casting, on_end)
        self._note(f"{role} started (pid {self._pids[role]}) {failpoints}")

    async def _again(self, role: str, pid: int) -> None:
        if self._plan.told:
            with contextlib.suppress(DatabaseUnavailable):
                await self._tell_record(pid)
        await asyncio.sleep(0.02)
        if not self._stopping:
            await self._start(role)

    async def _tell_record(self, pid: int) -> None:
        database = Database(DatabaseOptions(self._url("tollway_app"), connections_max=1), AnchoredClock())
        await database.start()
        try:
            await retire_processes(database, [pid])
        finally:
            await database.stop()

    async def _until_up(self) -> None:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(Cut):
                    answer = await ask(self._port, "GET", "/readyz")
                    if len((answer.body or {}).get("agents", ())) > 0:
                        return
                await asyncio.sleep(0.02)

    async def _leave(self) -> None:
        """SIGTERM: everything that still lives ends in good order."""
        self._stopping = True
        await asyncio.gather(*self._starts, return_exceptions=True)
        for role, pid in self._pids.items():
            if not self._ended[role].is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        for role in self._pids:
            try:
                async with asyncio.timeout(LEAVE_WITHIN_S):
                    await self._ended[role].wait()
            except TimeoutError:
                self._faults.append(f"{role} did not end within {LEAVE_WITHIN_S:g} s of SIGTERM")

    # the world's doing

    async def _disturb(self, one: Disturbance) -> None:
        await self._sleep_until(one.at_s)
        self._came[one.what if not one.role else f"{one.what} {one.role.partition('-')[0]}"] += 1
        if one.what in ("postmaster", "backend"):
            await self._crash_postgres(one.what)
            return
        number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}[one.what]
        pid = self._pids[one.role]
        self._note(f"{number.name} to {one.role} (pid {pid})")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            if one.what == "stop":
                await asyncio.sleep(one.hold_s)
                self._note(f"SIGCONT to {one.role} (pid {pid})")
                os.kill(pid, signal.SIGCONT)

    async def _crash_postgres(self, what: str) -> None:
        pid = self._server.pid
        if what == "backend":
            connection = await asyncpg.connect(self._url("postgres"))
            try:
                pid = await connection.fetchval(
                    "select pid from pg_stat_activity where datname = $1 and pid <> pg_backend_pid() limit 1",
                    self._database,
                )
            finally:
                await connection.close()
        self._note(f"SIGKILL to Postgres' {what} (pid {pid})")
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _submit(self, sent: _Sent) -> None:
        submit = sent.submit
        await asyncio.gather(*(self._post(sent, at_s) for at_s in (submit.at_s, *submit.again_at_s)))
        if len(set(sent.runs)) > 1:
            self._faults.append(f"the key {submit.key} gave runs {sorted(set(map(str, sent.runs)))}")

    async def _post(self, sent: _Sent, at_s: float) -> None:
        submit = sent.submit
        await self._sleep_until(at_s)
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        body: dict[str, Any] = {"agent": submit.agent, "input": {"tag": submit.tag}, "lane": submit.lane}
        if submit.key:
            headers["idempotency-key"] = submit.key
        if submit.delay_s:
            body["delay_s"] = submit.delay_s
        while True:
            try:
                answer = await ask(self._port, "POST", "/v1/runs", body, headers)
            except Cut:
                if not submit.key:  # it may stand in the record or not: nobody was told
                    return
            else:
                if answer.status == 202:
                    sent.runs.append(UUID(answer.body["id"]))
                    return
                if answer.status not in (429, 503):
                    self._faults.append(f"submit {submit.tag}: {answer.status} {answer.body}")
                    return
            await asyncio.sleep(0.05)

    async def _cancel(self, sent: _Sent) -> None:
        assert sent.submit.cancel_at_s is not None
        await self._sleep_until(sent.submit.cancel_at_s)
        if not sent.runs:
            return
        sent.cancelled = True
        path, headers = f"/v1/runs/{sent.runs[0]}/cancel", {"authorization": f"Bearer {ADMIN_KEY}"}
        while True:
            with contextlib.suppress(Cut):
                answer = await ask(self._port, "POST", path, headers=headers)
                if answer.status in (200, 202, 409):
                    self._note(f"cancel of {sent.runs[0]}: {answer.status}")
                    return
                if answer.status not in (429, 503):
                    self._faults.append(f"cancel of {sent.runs[0]}: {answer.status} {answer.body}")
                    return
            await asyncio.sleep(0.05)

    # the end

    async def _until_rest(self) -> bool:
        deadline = time.monotonic() + REST_WITHIN_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await asyncpg.connect(self._url("postgres"))
                try:
                    while time.monotonic() < deadline:
                        if await connection.fetchval("select count(*) from run where state is null") == 0:
                            return True
                        await asyncio.sleep(0.03)
                finally:
                    await connection.close(timeout=2)
            await asyncio.sleep(0.05)
        return False

    async def _read(self) -> History:
        calls: list[dict[str, Any]] = []
        async with asyncio.timeout(5):
            while True:
                answer: Answer = await ask(self._sim_port, "GET", "/sim/ledger?limit=10000")
                if answer.body["totals"]["in_flight"] == 0:
                    calls = answer.body["rows"]
                    break
                await asyncio.sleep(0.02)
        connection = await asyncpg.connect(self._url("postgres"))
        try:
            return await read_history(connection, calls, self._executions)
        finally:
            await connection.close(timeout=2)

    def _judge(self, history: History) -> None:
        """P1: what was answered 202 is on record, and ended as it should."""
        for sent in self._sent:
            for run_id in set(sent.runs):
                run = history.runs.get(run_id)
                if run is None:
                    self._faults.append(f"run {run_id} was answered 202 and is not on record")
                elif run.final and (wrong := _wrong_end(run, sent.cancelled)):
                    self._faults.append(f"run {run_id} ({run.agent}): {wrong}")

    def _tell_runs(self, history: History) -> None:
        text = "\n".join(self._faults)
        for run in history.runs.values():
            if str(run.id) not in text:
                continue
            self._timeline.append(f"  run {run.id} {run.agent}: {run.row}")
            self._timeline += [
                f"    {event.seq:>3} {event.at:%H:%M:%S.%f} {event.type} "
                f"{event.actor_kind} {event.actor_id} {event.data}"
                for event in run.events
            ]

    # small things

    @property
    def _executions(self) -> Path:
        return self._folder / "executions"

    def _url(self, role: str) -> str:
        return self._server.url_of(role, self._database)

    def _note(self, what: str) -> None:
        self._timeline.append(f"  {time.monotonic() - self._began:7.3f} {what}")

    async def _sleep_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self._began + at_s - time.monotonic()))

    def _write_settings(self) -> None:
        text = _SETTINGS.format(
            port=self._port,
            url=self._url("tollway_app"),
            heartbeat_s=HEARTBEAT_S,
            lease_ttl_s=LEASE_TTL_S,
            grace_s=self._plan.grace_s,
            sim_port=self._sim_port,
        )
        (self._folder / "tollway.toml").write_text(text)
        sim = {"latency_s": self._plan.latency_s, "output_tokens": 5}
        (self._folder / "sim.json").write_text(json.dumps({"sim": sim, "port": self._sim_port}))


def _unfinished(history: History) -> list[str]:
    return [f"run {run.id} ({run.agent}) has not ended" for run in history.runs.values() if not run.final]


def _wrong_end(run: RunHistory, cancelled: bool) -> str | None:
    state, code = run.row.state, run.row.error_code
    if state == "succeeded":
        return None
    if state == "cancelled" and cancelled:
        return None
    if state == "dead" and code == "poison" and lost_workers(run) >= LOST_MAX:
        return None
    cut = any(event.type == "step.unknown" for event in run.events)
    if state == "failed" and code == "step_unknown" and run.agent.startswith("careful") and cut:
        return None
    return f"ended {state} ({code}: {run.row.error_message})"
