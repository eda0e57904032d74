"""One seed played out: processes started and harmed as planned, runs submitted, all awaited, the history read."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from tollway.domain.clock import AnchoredClock
from tollway.domain.errors import DatabaseUnavailable
from tollway.record.database import UNREACHABLE, Database, DatabaseOptions
from tollway.record.processes import retire_processes
from tollway.simulator.provider import RunningSim, start_provider_sim
from tollway.testing.explorer.history import History, ProviderRow, read_record, statement
from tollway.testing.explorer.http import Answer, ask
from tollway.testing.explorer.nursery import Nursery, Process
from tollway.testing.explorer.plan import Harm, Plan, Submit
from tollway.testing.explorer.servers import ADMIN_KEY, Server

FINAL_WITHIN_S = 30.0
ANSWER_WITHIN_S = 20.0
_POLL_S = 0.03
_SETTLE_S = 0.3
_RESTART_S = 0.05


@dataclass(frozen=True, slots=True)
class Stage:
    """What seeds are played on: the server, the zygote, a folder, and a port of the seed's own."""

    server: Server
    nursery: Nursery
    folder: Path
    port: int


class Scene:
    """One seed. `timeline` tells what was done when, seconds after the start."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self.plan = plan
        self.timeline: list[tuple[float, str]] = []
        self.began_at = time.time()
        self.faults: list[str] = []
        self._stage = stage
        self._database = ""
        self._sim: RunningSim | None = None
        self._processes: dict[str, Process] = {}
        self._points = {role: list(specs) for role, specs in plan.points.items()}
        self._answered: dict[int, list[UUID]] = {submit.number: [] for submit in plan.submits}
        self._ending = False
        self._keepers: list[asyncio.Task[None]] = []

    async def play(self) -> History:
        """Play the plan to its end; the history. What ends the scene itself is in `faults`."""
        stage = self._stage
        (stage.folder / "marks").touch()
        async with stage.server.clone(f"seed_{self.plan.seed}_{stage.port}") as self._database:
            self._sim = await start_provider_sim({"latency_s": self.plan.latency_s, "seed": self.plan.seed})
            try:
                return await self._acts()
            finally:
                self._ending = True
                for task in self._keepers:
                    task.cancel()
                await asyncio.gather(*self._keepers, return_exceptions=True)
                await asyncio.gather(*(process.kill() for process in self._processes.values()))
                await self._sim.stop()

    async def _acts(self) -> History:
        names = ["api", "keeper", *(f"worker-{number}" for number in range(1, self.plan.workers + 1))]
        for name in names:
            self._keepers.append(asyncio.create_task(self._keep_alive(name)))
        await self._until("the API answers", self._api_answers(), ANSWER_WITHIN_S)
        self.began_at = time.time()
        began = time.monotonic()
        deeds: list[Awaitable[None]] = [self._submit(submit, began) for submit in self.plan.submits]
        deeds += [self._harm(harm, began) for harm in self.plan.harms]
        await asyncio.gather(*deeds)
        await self._until("every run has ended", self._all_final(), FINAL_WITHIN_S)
        await asyncio.gather(*(self._resubmit(submit) for submit in self.plan.submits if submit.keyed))
        return await self._history()

    def note(self, text: str) -> None:
        """Add a line to the timeline."""
        self.timeline.append((time.time(), text))

    async def _until(self, what: str, fact: Awaitable[None], within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await fact
        except TimeoutError:
            self.faults.append(f"not within {within_s:g} s: {what}")

    async def _keep_alive(self, name: str) -> None:
        """Start a process, and again whenever it ends, as `tollway up` does."""
        role = name.partition("-")[0]
        log = self._stage.folder / f"{name}.log"
        while not self._ending:
            specs = self._points.get(role) or []
            points = specs.pop(0) if specs else ""
            process = await self._stage.nursery.spawn(role, self._environment(), points, log)
            self._processes[name] = process
            self.note(f"{name} starts, pid {process.pid} {points}".rstrip())
            await process.ended.wait()
            self.note(f"{name} (pid {process.pid}) ended with {process.code}")
            if process.code not in (0, -signal.SIGKILL):
                self.faults.append(f"{name} ended with {process.code}:\n{_tail(log)}")
            if self.plan.told:
                await self._tell_of_death(process.pid)
            await asyncio.sleep(_RESTART_S)

    def _environment(self) -> dict[str, str]:
        assert self._sim is not None
        return {
            "TOLLWAY_DATABASE__URL": self._stage.server.app_url(self._database),
            "TOLLWAY_SERVER__PORT": str(self._stage.port),
            "TOLLWAY_WORKER__LEASE_TTL_S": "0.9",
            "TOLLWAY_WORKER__HEARTBEAT_S": "0.2",
            "TOLLWAY_WORKER__GRACE_S": "0.2",
            "TOLLWAY_PROVIDERS__SIM__BASE_URL": f"{self._sim.url}/v1",
            "TOLLWAY_EXPLORER_MARKS": str(self._stage.folder / "marks"),
        }

    async def _tell_of_death(self, pid: int) -> None:
        database = Database(DatabaseOptions(self._url, connections_max=1), AnchoredClock())
        with contextlib.suppress(DatabaseUnavailable):
            await database.start()
            await retire_processes(database, [pid])
        await database.stop()

    @property
    def _url(self) -> str:
        return self._stage.server.app_url(self._database)

    async def _harm(self, harm: Harm, began: float) -> None:
        await _sleep_until(began + harm.at_s)
        self.note(str(harm))
        if harm.deed == "crash":
            self._stage.server.crash()
            return
        process = self._processes[harm.role]
        if harm.deed == "stop":
            process.send(signal.SIGSTOP)
            await asyncio.sleep(harm.for_s)
            process.send(signal.SIGCONT)
            self.note(f"continue {harm.role} (pid {process.pid})")
            await asyncio.sleep(_SETTLE_S)
        else:
            process.send(signal.SIGKILL if harm.deed == "kill" else signal.SIGTERM)

    async def _api_answers(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                answer = await self._ask("GET", "/v1/agents")
                if answer.status == 200 and answer.document["items"]:
                    return
            await asyncio.sleep(_POLL_S)

    async def _ask(self, method: str, path: str, body: Any = None, headers: str = "") -> Answer:
        return await ask(self._stage.port, method, path, key=ADMIN_KEY, body=body, headers=headers)

    async def _submit(self, submit: Submit, began: float) -> None:
        await _sleep_until(began + submit.at_s)
        run_id = await self._answer_to(submit)
        if run_id is None or submit.cancel_after_s is None:
            return
        await asyncio.sleep(submit.cancel_after_s)
        with contextlib.suppress(OSError):
            answer = await self._ask("POST", f"/v1/runs/{run_id}/cancel")
            self.note(f"cancel of run {run_id} answered {answer.status}")

    async def _resubmit(self, submit: Submit) -> None:
        await self._answer_to(submit)

    async def _answer_to(self, submit: Submit) -> UUID | None:
        """Submit until answered 202, as a client with an idempotency key may (the others risk a second run)."""
        body: dict[str, Any] = {"agent": f"explorer.{submit.agent}", "input": f"run {submit.number}"}
        if submit.delay_s:
            body["delay_s"] = submit.delay_s
        headers = f"idempotency-key: submit-{submit.number}\r\n" if submit.keyed else ""
        give_up_at = time.monotonic() + ANSWER_WITHIN_S
        while time.monotonic() < give_up_at:
            with contextlib.suppress(OSError):
                answer = await self._ask("POST", "/v1/runs", body, headers)
                if answer.status == 202:
                    run_id = UUID(answer.document["id"])
                    self._answered[submit.number].append(run_id)
                    return run_id
                if answer.status != 503:
                    self.faults.append(f"submit {submit.number} was answered {answer.status}: {answer.document}")
                    return None
            await asyncio.sleep(_POLL_S)
        return None

    async def _all_final(self) -> None:
        while True:
            with contextlib.suppress(*UNREACHABLE, asyncpg.PostgresError):
                connection = await asyncpg.connect(self._stage.server.owner_url(self._database))
                try:
                    while await connection.fetchval(statement("explorer_live")):  # noqa: ASYNC110  a database
                        await asyncio.sleep(_POLL_S)
                    return
                finally:
                    await connection.close()
            await asyncio.sleep(_POLL_S)

    async def _history(self) -> History:
        assert self._sim is not None
        connection = await asyncpg.connect(self._stage.server.owner_url(self._database))
        try:
            found = await read_record(connection)
        finally:
            await connection.close()
        await self._until("the provider has no call in flight", self._no_call_in_flight(self._sim), 3)
        expected = {run_id: submit.expected for submit in self.plan.submits for run_id in self._answered[submit.number]}
        return replace(
            found,
            provider=[ProviderRow(row.call_id, row.cost_nano, row.status) for row in self._sim.ledger.rows()],
            marks=(self._stage.folder / "marks").read_text().split("\n")[:-1],
            answered=self._answered,
            keyed=frozenset(submit.number for submit in self.plan.submits if submit.keyed),
            expected=expected,
        )

    async def _no_call_in_flight(self, sim: RunningSim) -> None:
        while sim.ledger.in_flight:  # noqa: ASYNC110  the ledger has a number, no event
            await asyncio.sleep(_POLL_S)


async def _sleep_until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.monotonic()))


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:] if log.exists() else ""
