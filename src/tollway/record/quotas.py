"""What tenants with quotas have used: tokens, counted where calls settle and shared by all processes; runs queued.

    call settled ─▶ counted here ─▶ saved, about once a second ─▶ news "quota" ─▶ read by every door

A process that is killed loses what it counted in its last second, and no more.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID, uuid4

from tollway.domain.clock import Clock
from tollway.domain.errors import DatabaseUnavailable
from tollway.domain.news import News
from tollway.domain.spans import MINUTE_S, SLICE_S, day_of, slice_of
from tollway.record.database import Database

SAVE_EVERY_S = 1.0
READ_EVERY_S = 0.25
STALE_S = 2.0
COUNT_MAX = 1_000_000
_RETRY_S = 1.0
_SAVE_AT_END_S = 2.0

Spent = Counter[tuple[str, int, str]]
"""Tokens by span (`slice`, `day`), its begin in epoch seconds, and tenant."""


async def count_queued(
    database: Database, lanes: Sequence[str], most: Mapping[str, int], before: UUID
) -> dict[str, int]:
    """Queued runs with an id below `before`, by tenant: exact up to each one's bound, and more than it beyond.

    Raises DatabaseUnavailable.
    """
    bounds = [min(bound, COUNT_MAX) for bound in most.values()]
    rows = await database.rows("count_queued", list(most), bounds, before, list(lanes))
    return {row["tenant"]: row["queued"] for row in rows}


class TokenBook:
    """Tokens used by the tenants that have a quota of them.

    With `reads` it also knows what other processes counted (an API process needs that), and which tenants those are is
    told by `govern`; else it asks the record when the settings changed and something was used since.
    """

    def __init__(self, database: Database, news: News, clock: Clock, *, reads: bool = False) -> None:
        self._database = database
        self._news = news
        self._clock = clock
        self._reads = reads
        self._name = uuid4().hex
        self._governed: frozenset[str] | None = None
        self._version = 0
        self._unsaved: Spent = Counter()
        self._saving: Spent = Counter()
        self._saved: Spent = Counter()
        self._held: Counter[str] = Counter()
        self._known: dict[str, tuple[dict[int, int], dict[int, int]]] = {}
        self._read_at = float("-inf")
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: list[Callable[[], None]] = []

    def start(self) -> None:
        """Begin to save and to read; a second start is nothing."""
        if self._task is not None:
            return
        channel, heard = ("quota", self._heard) if self._reads else ("settings", lambda _: self._changed())
        self._unsubscribe = [self._news.subscribe(channel, heard)]
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="quotas")

    async def stop(self) -> None:
        """Save what is left, and end; a second stop is nothing."""
        task, self._task = self._task, None
        if task is None:
            return
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with contextlib.suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(_SAVE_AT_END_S):
                await self._save()

    def govern(self, tenants: Iterable[str]) -> None:
        """These have a quota of tokens."""
        self._governed = frozenset(tenants)
        if self._governed:
            self._wake.set()

    def version_seen(self, version: int) -> None:
        """The settings are at this version, as a beat has told."""
        if version > self._version:
            self._version = version
            self._changed()

    def spent(self, tenant: str, tokens: int) -> None:
        """A call of the tenant used these."""
        if tokens <= 0 or (self._governed is not None and tenant not in self._governed):
            return
        now = self._clock.now()
        self._unsaved["slice", slice_of(now), tenant] += tokens
        self._unsaved["day", day_of(now), tenant] += tokens
        self._wake.set()

    def hold(self, tenant: str, tokens: int) -> None:
        """A call of the tenant is under way here and may use these; the same number is `released` at its end."""
        self._held[tenant] += tokens

    def release(self, tenant: str, tokens: int) -> None:
        """It has ended."""
        self._held[tenant] -= tokens
        if not self._held[tenant]:
            del self._held[tenant]

    def held(self, tenant: str) -> int:
        """What calls under way in this process may still use."""
        return self._held[tenant]

    def slices(self, tenant: str) -> dict[int, int]:
        """Tokens used lately, by the begin of their slice, as far as this process knows."""
        if self._clock.monotonic() - self._read_at > STALE_S:
            self._wake.set()
        return self._of(tenant, "slice")

    def day(self, tenant: str) -> int:
        """Tokens used this UTC day, as far as this process knows."""
        return self._of(tenant, "day").get(day_of(self._clock.now()), 0)

    def _of(self, tenant: str, span: str) -> dict[int, int]:
        known = self._known.get(tenant)
        found = Counter({} if known is None else known[span == "day"])
        for spent in (self._saved, self._saving, self._unsaved):
            for (of, begins, who), tokens in spent.items():
                if who == tenant and of == span:
                    found[begins] += tokens
        return found

    def _heard(self, name: str) -> None:
        if name != self._name and self._governed:
            self._wake.set()

    def _changed(self) -> None:
        """Who has quotas may have changed: ask when something is used."""
        self._governed = None

    async def _keep(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            pause_s = READ_EVERY_S
            try:
                if await self._save():
                    pause_s = SAVE_EVERY_S
                if self._reads:
                    await self._read()
            except DatabaseUnavailable:
                self._wake.set()
                pause_s = _RETRY_S
            await asyncio.sleep(pause_s * random.uniform(0.9, 1.1))

    async def _save(self) -> bool:
        """Save what was counted; False if it was nothing. One that cannot be saved now is kept for the next time."""
        if self._governed is None and self._unsaved:
            self._governed = frozenset(row[0] for row in await self._database.rows("list_token_tenants"))
        governed = self._governed or frozenset()
        self._saving.update({key: tokens for key, tokens in self._unsaved.items() if key[2] in governed})
        self._unsaved.clear()
        if not self._saving:
            return False
        keys = list(self._saving)
        columns = [list(column) for column in zip(*keys, strict=True)]
        await self._database.rows("save_quota_use", *columns, [self._saving[key] for key in keys])
        if self._reads:
            self._saved.update(self._saving)
        self._saving.clear()
        self._news.publish("quota", self._name)
        return True

    async def _read(self) -> None:
        """Replace what is known. What was saved before counts in what is read, so it is no longer counted apart."""
        now = self._clock.now()
        rows = await self._database.rows("read_quota_use", slice_of(now) - MINUTE_S - SLICE_S, day_of(now))
        known: dict[str, tuple[dict[int, int], dict[int, int]]] = {}
        for row in rows:
            known.setdefault(row["tenant"], ({}, {}))[row["span"] == "day"][row["begins"]] = row["tokens"]
        self._known = known
        self._saved.clear()
        self._read_at = self._clock.monotonic()
