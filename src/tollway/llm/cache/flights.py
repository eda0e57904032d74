"""Single flight: of identical calls under way in this process one is made, and the others wait for its answer.

    board ─▶ nobody flies with this key ─▶ leads ─ land(answer) ─▶ every follower has it
                  │                          └──── leave ────────▶ the first follower leads now
                  └─ somebody does ─▶ follows

A leader that fails or is cancelled hands the lead to one follower, never its failure to any. A follower may give up at
any time (its deadline is its own business) and hurts nobody.
"""

import asyncio
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

Answer = TypeVar("Answer")


class Flight(Generic[Answer]):
    """One caller's seat. `answer` is that of the leader; None says that this caller leads.

    A leader calls `land` with the answer, or `leave`; as a context it leaves by itself if it has not landed.
    """

    __slots__ = ("_flights", "_key", "_leading", "answer")

    def __init__(self, flights: "Flights[Answer]", key: bytes, answer: Answer | None) -> None:
        self.answer = answer
        self._flights = flights
        self._key = key
        self._leading = answer is None

    def land(self, answer: Answer) -> None:
        """Give the answer to every follower; for the leader, once."""
        if self._leading:
            self._leading = False
            self._flights.landed(self._key, answer)

    def leave(self) -> None:
        """Let a follower lead, if there is any; after `land`, and for a follower, it is nothing."""
        if self._leading:
            self._leading = False
            self._flights.left(self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class Flights(Generic[Answer]):
    """The calls under way, by fingerprint. An answer is never None."""

    def __init__(self) -> None:
        self._followers: dict[bytes, deque[asyncio.Future[Answer | None]]] = {}

    def __len__(self) -> int:
        return len(self._followers)

    async def board(self, key: bytes) -> Flight[Answer]:
        """Lead at once if nobody does, else wait for the answer, or for the lead when its holder fails."""
        followers = self._followers.get(key)
        if followers is None:
            self._followers[key] = deque()
            return Flight(self, key, None)
        seat: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        followers.append(seat)
        try:
            return Flight(self, key, await seat)
        except BaseException:
            if not seat.done() or seat.cancelled():
                seat.cancel()
                with suppress(ValueError):  # a leader that left meanwhile passed it over
                    followers.remove(seat)
            elif seat.result() is None:  # the lead came in the very moment of giving up
                self.left(key)
            raise

    def landed(self, key: bytes, answer: Answer) -> None:
        """The leader has the answer: tell every follower."""
        for seat in self._followers.pop(key):
            if not seat.done():
                seat.set_result(answer)

    def left(self, key: bytes) -> None:
        """The leader has none: the follower that waits longest leads now."""
        followers = self._followers[key]
        while followers:
            seat = followers.popleft()
            if not seat.done():
                seat.set_result(None)
                return
        del self._followers[key]
