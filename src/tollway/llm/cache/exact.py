"""The exact cache: the same call gets the same answer, from this process' memory or from the tier that all share.

peek   ─▶ memory alone, no waiting      find ─▶ the shared tier, once, with little patience; a hit goes into memory
keep   ─▶ into memory now, into the shared tier behind      through ─▶ all of it, and single flight around the making

A semantic cache would stand behind the same verbs, asked after `find` and before the making.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import msgspec

from tollway.domain.clock import Clock
from tollway.domain.llm import Caller
from tollway.hotstate.answers import Answer
from tollway.llm.cache.flights import Flight, Flights
from tollway.llm.cache.memory import Memory
from tollway.llm.cache.shared import SharedAnswers

HIT = "hit"
SHARED_HIT = "shared_hit"
FLIGHT = "flight"
MISS = "miss"
"""Where an answer came from: memory, the shared tier, an identical call in flight; or it was made."""


class Keepable(Protocol):
    """What a cache keeps: a MessagePack struct that says whether it is good enough."""

    @property
    def keepable(self) -> bool:
        """Whether it may be given again."""


Value = TypeVar("Value", bound=Keepable)


class Found(msgspec.Struct, Generic[Value], frozen=True, gc=False):
    """An answer, and where it came from."""

    value: Value
    result: str

    @property
    def cached(self) -> bool:
        """Whether nothing was made, and so nothing paid."""
        return self.result != MISS


class ExactCache(Generic[Value]):
    """Answers of one `kind` by fingerprint, for `ttl_s` seconds where nothing else is said.

    Caches of several kinds may share memory and shared tier: a fingerprint says its kind. Without `single_flight`
    identical calls under way at once are each made.
    """

    def __init__(
        self,
        kind: type[Value],
        memory: Memory,
        shared: SharedAnswers,
        clock: Clock,
        ttl_s: float,
        *,
        single_flight: bool = True,
    ) -> None:
        self.flights: Flights[Value] = Flights()
        self._memory = memory
        self._shared = shared
        self._clock = clock
        self._ttl_s = ttl_s
        self._single_flight = single_flight
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def peek(self, key: bytes) -> Value | None:
        """The answer in this process' memory."""
        held = self._memory.peek(key, self._clock.now())
        return None if held is None else self._read(key, held)

    async def find(self, key: bytes) -> Value | None:
        """The answer in the shared tier, which from now on is in memory too; None also when it does not say in time."""
        held = await self._shared.find(key)
        if held is None or held.expires_at <= self._clock.now():
            return None
        value = self._read(key, held.value)
        if value is not None:
            self._memory.keep(key, held.value, held.expires_at)
        return value

    def keep(self, key: bytes, caller: Caller, value: Value, ttl_s: float | None = None) -> None:
        """Keep an answer in both tiers, if it is good enough. Never waits, never fails."""
        if not value.keepable:
            return
        held = self._encode(value)
        expires_at = self._clock.now() + (self._ttl_s if ttl_s is None else ttl_s)
        self._memory.keep(key, held, expires_at)
        self._shared.keep(Answer(key, caller.tenant, caller.version, held, expires_at))

    async def through(
        self,
        key: bytes,
        caller: Caller,
        make: Callable[[], Awaitable[Value]],
        ttl_s: float | None = None,
        patience_s: float | None = None,
    ) -> Found[Value]:
        """The answer from wherever it is, else made, once for all of a lane who ask meanwhile. Raises what `make` does.

        Lanes do not share a making: interactive work would wait for what a batch call waits for. Another's making is
        waited for at most `patience_s`, if that is given; then TimeoutError is raised.
        """
        value = self.peek(key)
        if value is not None:
            return Found(value, HIT)
        if not self._single_flight:
            return await self._found_or_made(key, caller, make, ttl_s)
        with await self._board(key + caller.lane.encode(), patience_s) as flight:
            if flight.answer is not None:
                return Found(flight.answer, FLIGHT)
            found = await self._found_or_made(key, caller, make, ttl_s)
            flight.land(found.value)
            return found

    async def _found_or_made(
        self, key: bytes, caller: Caller, make: Callable[[], Awaitable[Value]], ttl_s: float | None
    ) -> Found[Value]:
        value = await self.find(key)
        if value is not None:
            return Found(value, SHARED_HIT)
        value = await make()
        self.keep(key, caller, value, ttl_s)
        return Found(value, MISS)

    async def _board(self, key: bytes, patience_s: float | None) -> Flight[Value]:
        if patience_s is None:
            return await self.flights.board(key)
        async with asyncio.timeout(patience_s):
            return await self.flights.board(key)

    def _read(self, key: bytes, held: bytes) -> Value | None:
        """What was kept; None for what another version wrote and this one cannot read."""
        try:
            return self._decode(held)
        except msgspec.DecodeError:
            self._memory.drop(key)
            return None
