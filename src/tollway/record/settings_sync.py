"""Settings in memory, coherent over every API process.

A change raises `settings_version` in its own transaction and is answered only when every live API process has read it.
A process that cannot beat within its lease must refuse (`fresh` is False) until it has read again; nobody waits for it:

    change --commit--> news "settings" --> each process reads, says settings_seen, news "settings_seen" --> answer
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.news import News
from tollway.domain.shifts import Shift
from tollway.record.agents import AgentRecord, agent_record
from tollway.record.budgets import BudgetsOf, budgets_by_tenant
from tollway.record.database import Database
from tollway.record.keys import KeyRecord
from tollway.record.processes import (
    LiveProcess,
    ProcessGone,
    beat_process,
    count_behind,
    leave_process,
    live_processes,
    register_process,
)
from tollway.record.shifts import shift_record
from tollway.record.sql import query
from tollway.record.tenants import TenantRecord, tenant_record

_RETRY_S = 0.5
_WAIT_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class SettingsSnapshot:
    """What requests are checked against; never changed, only replaced."""

    version: int = 0
    keys: Mapping[bytes, KeyRecord] = field(default_factory=dict)
    tenants: Mapping[str, TenantRecord] = field(default_factory=dict)
    agents: tuple[AgentRecord, ...] = ()
    shifts: tuple[Shift, ...] = ()
    budgets: BudgetsOf = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """Seconds between beats, and for how long a beat holds."""

    heartbeat_s: float = 3.0
    lease_ttl_s: float = 12.0


async def read_settings(database: Database) -> SettingsSnapshot:
    """Read everything; the version is read first, so the rest is at least as new. Raises DatabaseUnavailable."""
    async with database.connection() as connection:
        version = await connection.fetchval(query("read_settings_version"))
        keys = await connection.fetch(query("list_live_keys"))
        tenants = await connection.fetch(query("list_tenants"))
        agents = await connection.fetch(query("list_agents"))
        shifts = await connection.fetch(query("list_shifts"))
        budgets = await connection.fetch(query("list_budgets"))
    return SettingsSnapshot(
        version=version,
        keys={
            bytes(row["hash"]): KeyRecord(row["id"], row["tenant"], row["name"], frozenset(row["scopes"]))
            for row in keys
        },
        tenants={row["id"]: tenant_record(row) for row in tenants},
        agents=tuple(agent_record(row) for row in agents),
        shifts=tuple(shift_record(row) for row in shifts),
        budgets=budgets_by_tenant(budgets),
    )


class SettingsSync:
    """Keeps the snapshot and this API process' own row; `on_change` hears of every new snapshot.

    `facts` is what the row tells the others; `processes` is what the others told lately, of every live process.
    """

    def __init__(
        self,
        database: Database,
        news: News,
        clock: Clock,
        options: SyncOptions | None = None,
        on_change: Callable[[SettingsSnapshot], None] | None = None,
        facts: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._database = database
        self._news = news
        self._clock = clock
        self._options = options or SyncOptions()
        self._listeners = [on_change] if on_change else []
        self.snapshot = SettingsSnapshot()
        self.processes: list[LiveProcess] = []
        self.workers: list[LiveProcess] = []
        self._facts = [facts]
        self._on_processes: list[Callable[[], None]] = []
        self._process_id = 0
        self._fresh_until = 0.0
        self._stopping = False
        self._wake = asyncio.Event()
        self._seen_news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: list[Callable[[], None]] = []
        self._lock = asyncio.Lock()

    @property
    def fresh(self) -> bool:
        """Whether the snapshot may be relied on; if not, refuse: the database is out of reach."""
        if self._clock.monotonic() < self._fresh_until:
            return True
        self._wake.set()
        return False

    @property
    def process_id(self) -> int:
        """This process' incarnation; 0 before it has one."""
        return self._process_id

    def on_change(self, listener: Callable[[SettingsSnapshot], None]) -> None:
        """Call `listener` with every new snapshot."""
        self._listeners.append(listener)

    def tell(self, facts: Callable[[], dict[str, Any]]) -> None:
        """Have every beat tell these as well."""
        self._facts.append(facts)

    def on_processes(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever `processes` and `workers` were read anew."""
        self._on_processes.append(listener)

    async def start(self) -> None:
        """Register, read, and keep reading. Raises DatabaseUnavailable."""
        if self._task is not None:
            return
        self._stopping = False
        self._unsubscribe = [
            self._news.subscribe("settings", lambda _: self._wake.set()),
            self._news.subscribe("settings_seen", lambda _: self._seen_news.set()),
        ]
        try:
            await self._read_and_beat(force=True)
        except BaseException:
            self._forget()
            raise
        self._task = asyncio.create_task(self._keep_reading())

    async def stop(self) -> None:
        """Leave in good order; a second stop is nothing."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self._forget()
        with contextlib.suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(2):
                await leave_process(self._database, self._process_id)
        self._process_id = 0
        self._fresh_until = 0.0

    def drain(self) -> None:
        """Say in the process' row that it is stopping."""
        self._stopping = True
        self._wake.set()

    async def changed(self, version: int | None) -> None:
        """After a committed change: return when every live API process holds it. Raises DatabaseUnavailable."""
        self._news.publish("settings", str(version or ""))
        await self._read_and_beat(force=version is None)
        if version is None:
            version = self.snapshot.version
        give_up_at = self._clock.monotonic() + 2 * self._options.lease_ttl_s
        while self._clock.monotonic() < give_up_at:
            self._seen_news.clear()
            if not await count_behind(self._database, version):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_POLL_S):
                    await self._seen_news.wait()

    def _forget(self) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []

    async def _keep_reading(self) -> None:
        pause_s = self._pause()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            forced = self._wake.is_set()
            self._wake.clear()
            try:
                await self._read_and_beat(force=forced)
                self.processes = await live_processes(self._database, "api", "worker", "keeper")
                self.workers = [process for process in self.processes if process.role == "worker"]
                for listener in self._on_processes:
                    listener()
                pause_s = self._pause()
            except DatabaseUnavailable:
                await asyncio.sleep(
                    _RETRY_S * random.uniform(0.5, 1.0)
                )  # a wake-up must not turn an outage into a spin
                pause_s = 0.0

    def _pause(self) -> float:
        return self._options.heartbeat_s * random.uniform(0.85, 1.0)

    async def _read_and_beat(self, *, force: bool) -> None:
        async with self._lock:
            while True:
                asked_at = self._clock.monotonic()
                version = await self._beat()
                if version <= self.snapshot.version and not force:
                    break
                force = False
                self._take(await read_settings(self._database))
            self._fresh_until = asked_at + self._options.lease_ttl_s

    async def _beat(self) -> int:
        facts = {name: fact for told in self._facts for name, fact in told().items()}
        if self._process_id:
            try:
                return await beat_process(
                    self._database, self._process_id, self.snapshot.version, facts, stopping=self._stopping
                )
            except ProcessGone:
                self._process_id = 0
        self._process_id = await register_process(self._database, "api", self._options.lease_ttl_s, facts)
        return await beat_process(self._database, self._process_id, self.snapshot.version, facts)

    def _take(self, snapshot: SettingsSnapshot) -> None:
        self.snapshot = snapshot
        for listener in self._listeners:
            listener(snapshot)
        self._news.publish("settings_seen", str(snapshot.version))
