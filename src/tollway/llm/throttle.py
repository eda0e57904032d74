"""Calls of throttled budgets wait here for their turn: the lines of `spend.pacing`, driven by the event loop.

Who would wait longer than he may is told when to come again; who has gone puts back what his call did not cost.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tollway.domain.budgets import Exhausted
from tollway.domain.clock import Clock
from tollway.domain.errors import LlmError
from tollway.spend.budgets import Pace
from tollway.spend.pacing import Pacer, Turn

_LOOK_S = 1.0
_TIMER_S = 0.001
_RESTED_S = 600.0
_AWAY_MIN_S = 0.25
_LOOK_AGAIN_S = 30.0
_STAY = 0.7


class Fare:
    """What a call was let go for, nano-dollars: charged now, until `settle` says what it cost."""

    __slots__ = ("_lines", "_nano", "_open")

    def __init__(self, lines: "Sequence[_Line]", nano: int) -> None:
        self._lines = lines
        self._nano = nano
        self._open = True

    def charge(self) -> None:
        """A further call for the same request: it is charged as well, and waits no more."""
        if not self._open:
            self._open = True
            self._give(-self._nano)

    def settle(self, nano: int) -> None:
        """The call cost this. A second time is nothing."""
        if self._open:
            self._open = False
            self._give(self._nano - nano)

    def _give(self, nano: int) -> None:
        for line in self._lines:
            line.give(nano)


@dataclass(frozen=True, slots=True)
class Passenger:
    """Who waits: whether he is urgent, until when (monotonic seconds), and whether a budget still throttles him."""

    urgent: bool
    deadline: float
    held: Callable[[int], bool]


class Throttle:
    """The lines of this process, one a budget."""

    def __init__(self, clock: Clock, park_after_s: float) -> None:
        self._clock = clock
        self._park_after_s = park_after_s
        self._lines: dict[int, _Line] = {}

    async def take(self, paces: Sequence[Pace], nano: int, who: Passenger) -> Fare:
        """Wait for a turn with each of the budgets. Raises LlmError `throttled`, which parks; nothing is taken then."""
        passed: list[_Line] = []
        try:
            for pace in sorted(paces, key=lambda one: one.budget):
                line = self._line(pace)
                if await self._turn(line, pace, nano, who):
                    passed.append(line)
        except BaseException:
            for line in passed:
                line.give(nano)
            raise
        return Fare(passed, nano)

    async def _turn(self, line: "_Line", pace: Pace, nano: int, who: Passenger) -> bool:
        now = self._clock.monotonic()
        patience_s = min(who.deadline - now, self._park_after_s)
        wait_s = line.pacer.wait_s(nano, who.urgent, now)
        if wait_s > patience_s:
            raise self._too_long(pace, wait_s)
        gone = await line.turn(nano, who.urgent, now + patience_s, lambda: who.held(pace.budget))
        if gone is None:
            raise self._too_long(pace, line.pacer.wait_s(nano, who.urgent, self._clock.monotonic()))
        return gone

    def _line(self, pace: Pace) -> "_Line":
        now = self._clock.monotonic()
        rate = pace.left_nano / pace.lasts_s / pace.sharers
        line = self._lines.get(pace.budget)
        if line is None:
            for budget, other in list(self._lines.items()):
                if not other.pacer.waiting and now - other.asked_at > _RESTED_S:
                    del self._lines[budget]
            line = self._lines[pace.budget] = _Line(Pacer(rate, now), self._clock)
        else:
            line.pacer.pace(rate, now)
            line.admit()
        line.asked_at = now
        return line

    def _too_long(self, pace: Pace, wait_s: float) -> LlmError:
        """As for capacity: back in time to wait for the rest of it, and a forecast is made anew half-way."""
        away_s = max(_AWAY_MIN_S, min(wait_s - _STAY * self._park_after_s, max(_LOOK_AGAIN_S, wait_s / 2), 3600.0))
        message = (
            f"budget {pace.budget} is throttled, so that its money lasts for its period; this call's turn comes later"
        )
        error = LlmError("throttled", message, retry_after_s=away_s).later()
        error.exhausted = Exhausted(pace.budget, self._clock.now() + away_s, parks=True)
        return error


class _Line:
    """A pacer with the tasks that stand in its line, and the timer that lets the first one go."""

    def __init__(self, pacer: Pacer, clock: Clock) -> None:
        self.pacer = pacer
        self.asked_at = 0.0
        self._clock = clock
        self._waiting: dict[Turn, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def turn(self, nano: int, urgent: bool, deadline: float, held: Callable[[], bool]) -> bool | None:
        """True once the money is taken, False when nobody throttles any more, None at the deadline."""
        turn = self.pacer.join(nano, urgent, self._clock.monotonic())
        if turn.gone:
            return True
        told = self._waiting[turn] = asyncio.get_running_loop().create_future()
        self._arm()
        try:
            while not told.done():
                left_s = deadline - self._clock.monotonic()
                if left_s <= 0 or not held():
                    self.pacer.leave(turn)
                    self.admit()
                    return None if left_s <= 0 else False
                await asyncio.wait((told,), timeout=min(left_s, _LOOK_S))
        except BaseException:
            self.pacer.leave(turn)
            self.admit()
            raise
        finally:
            del self._waiting[turn]
        return True

    def give(self, nano: int) -> None:
        """Put back what a call did not cost."""
        self.pacer.give(nano)
        if self._waiting:
            self.admit()

    def admit(self) -> None:
        """Let go whose turn has come."""
        for turn in self.pacer.admit(self._clock.monotonic()):
            told = self._waiting.get(turn)
            if told is not None and not told.done():
                told.set_result(None)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        next_s = self.pacer.next_s(self._clock.monotonic())
        if next_s < _LOOK_AGAIN_S * 2:
            self._timer = asyncio.get_running_loop().call_later(max(next_s, _TIMER_S), self.admit)
