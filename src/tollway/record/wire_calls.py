"""The money of calls made over the wire without a run: reserved before the call, one ledger entry after it.

Reservations are awaited, for no call is made before its own is durable; entries are written behind and wait out any
outage of the database. A reservation that nobody closes is turned into an `unknown` entry once its process is gone.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from uuid import UUID

import msgspec

from tollway import failpoints
from tollway.domain.llm import Usage
from tollway.record.database import Database
from tollway.record.group_commit import FlushOptions, GroupCommit
from tollway.record.processes import ProcessGone
from tollway.record.writes import NO_SAVING, Saving

OPEN_PACE_S = 0.002
CLOSE_PACE_S = 0.05
DRAIN_S = 2.0
WRITE_S = 5.0
_NOTHING = Usage()


class WireCall(msgspec.Struct, frozen=True, gc=False):
    """A call about to be made. `reserved_nano` is its worst case, reserved in the budget `accounts` ("12,15")."""

    call_id: UUID
    process: int
    tenant: str
    key_id: str
    lane: str
    tier: str
    route: str
    provider: str
    model: str
    price_version: str
    reserved_nano: int
    at: datetime
    task_type: str | None = None
    asked: str | None = None
    accounts: str | None = None


class WireEntry(msgspec.Struct, frozen=True, gc=False):
    """How a call ended: `settle`, `release` or `unknown`. `nano` None is the worst case that was reserved.

    What a `settle` is above that becomes an `adjust` beside it.
    """

    call_id: UUID
    kind: str
    nano: int | None
    at: datetime
    usage: Usage = _NOTHING
    saving: Saving = NO_SAVING


class WireHit(msgspec.Struct, frozen=True, gc=False):
    """An answer given again, without a call: `saved_nano` is what the making had cost, `cached` how it was found."""

    call_id: UUID
    tenant: str
    key_id: str
    lane: str
    tier: str | None
    asked: str
    task_type: str | None
    route: str
    model: str
    cached: str
    saved_nano: int
    at: datetime


class WireCalls:
    """The wire's writes of one process."""

    def __init__(
        self,
        database: Database,
        on_open: Callable[[int, float], None] | None = None,
        on_close: Callable[[int, float], None] | None = None,
    ) -> None:
        self._database = database
        self._opening: GroupCommit[WireCall, bool] = GroupCommit(self._open, FlushOptions(pace_s=OPEN_PACE_S), on_open)
        patient = FlushOptions(flights_max=1, pace_s=CLOSE_PACE_S, patience_s=float("inf"))
        self._held = 0
        self._none_held = asyncio.Event()
        self._none_held.set()
        self._closing: GroupCommit[WireEntry, bool] = GroupCommit(self._close, patient, on_close)
        self._hits: GroupCommit[WireHit, bool] = GroupCommit(self._note_hits, patient)

    def open(self, call: WireCall) -> "asyncio.Future[bool]":
        """Reserve; the future ends when that is durable, or raises DatabaseUnavailable. `close` it once in any case."""
        self._held += 1
        self._none_held.clear()
        return self._opening.put(call)

    def close(self, entry: WireEntry) -> "asyncio.Future[bool]":
        """End the reservation with its entry; durable soon, when the future ends. Only `drain` need wait for it."""
        self._held -= 1
        if not self._held:
            self._none_held.set()
        closing = self._closing.put(entry)
        closing.add_done_callback(_looked_at)
        return closing

    def hit(self, hit: WireHit) -> None:
        """Note an answer given again; durable soon, awaited by nobody but `drain`."""
        self._hits.put(hit).add_done_callback(_looked_at)

    async def settled(self) -> None:
        """Wait until every reservation handed in by now stands, or is refused."""
        await self._opening.settled()

    async def drain(self) -> None:
        """Wait until what is under way was closed and all that was handed in is written, a moment at most for each.

        What is left then, for the database is away, ends as `unknown` once this process is gone.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._none_held.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITE_S):
                await self._opening.drain()
                await self._closing.drain()
                await self._hits.drain()

    async def _open(self, calls: Sequence[WireCall]) -> list[bool | Exception]:
        columns = _columns([msgspec.structs.astuple(call) for call in calls])
        refused = {row["call_id"] for row in await self._database.rows("open_wire_calls", *columns)}
        if failpoints.armed:
            failpoints.hit("intent.after")
        if not refused:
            return [True] * len(calls)
        gone = ProcessGone("this process is being registered anew")
        return [gone if call.call_id in refused else True for call in calls]

    async def _close(self, entries: Sequence[WireEntry]) -> list[bool | Exception]:
        if failpoints.armed:
            failpoints.hit("settle.before")
        rows = [
            (
                entry.call_id,
                entry.kind,
                entry.nano,
                entry.usage.input_tokens,
                entry.usage.output_tokens,
                entry.usage.cached_tokens,
                entry.usage.estimated,
                entry.at,
                entry.saving.prompt_nano,
                entry.saving.shift_nano,
            )
            for entry in entries
        ]
        await self._database.rows("close_wire_calls", *_columns(rows))
        return [True] * len(entries)

    async def _note_hits(self, hits: Sequence[WireHit]) -> list[bool | Exception]:
        await self._database.rows("note_wire_hits", *_columns([msgspec.structs.astuple(hit) for hit in hits]))
        return [True] * len(hits)


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _looked_at(future: "asyncio.Future[bool]") -> None:
    """A write that the database refused for good, or that the end of the process cut: the reservation stands."""
    if not future.cancelled():
        future.exception()
