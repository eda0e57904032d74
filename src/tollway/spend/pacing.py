"""The pace of a throttled budget: a bucket of money that fills at the rate at which the rest lasts, and a line.

Pure: times are monotonic seconds. A call goes when the bucket holds what it may cost, or as much as it can hold, so
that every call goes in the end; what is taken beyond that is paid off first. Urgent calls go before others, equals in
turn.
"""

import math
from bisect import insort

BURST_S = 60.0
"""Of its rate, what a bucket may save up."""

_ROUNDING_NANO = 1e-3


class Turn:
    """A call's place in the line; `gone` once it may be made."""

    __slots__ = ("gone", "nano", "number", "urgent")

    def __init__(self, nano: float, urgent: bool, number: int) -> None:
        self.nano = nano
        self.urgent = urgent
        self.number = number
        self.gone = False

    def __lt__(self, other: "Turn") -> bool:
        return (not self.urgent, self.number) < (not other.urgent, other.number)


class Pacer:
    """The bucket and the line of one budget. It begins full."""

    def __init__(self, rate: float, now: float) -> None:
        """`rate` is in nano-dollars a second."""
        self._rate = rate
        self._at = now
        self._level = rate * BURST_S
        self._joined = 0
        self._line: list[Turn] = []

    @property
    def waiting(self) -> int:
        """How many stand in the line."""
        return len(self._line)

    def pace(self, rate: float, now: float) -> None:
        """From now on it fills at this rate."""
        self._fill(now)
        self._rate = rate
        self._level = min(self._level, rate * BURST_S)

    def wait_s(self, nano: float, urgent: bool, now: float) -> float:
        """How long a call that joined now would wait, if nobody more urgent came; infinite where nothing comes in."""
        self._fill(now)
        before = sum(turn.nano for turn in self._line if turn.urgent or not urgent)
        missing = before + self._needed(nano) - self._level
        if missing <= _ROUNDING_NANO:
            return 0.0
        return missing / self._rate if self._rate > 0 else math.inf

    def join(self, nano: float, urgent: bool, now: float) -> Turn:
        """Stand in the line; `gone` at once where nobody is before it and the money is there."""
        self._fill(now)
        self._joined += 1
        turn = Turn(nano, urgent, self._joined)
        insort(self._line, turn)
        self.admit(now)
        return turn

    def admit(self, now: float) -> list[Turn]:
        """Those whose turn has come: they are gone, and their money is taken."""
        self._fill(now)
        went = []
        while self._line and self._level >= self._needed(self._line[0].nano) - _ROUNDING_NANO:
            turn = self._line.pop(0)
            turn.gone = True
            self._level -= turn.nano
            went.append(turn)
        return went

    def next_s(self, now: float) -> float:
        """How long until the first in the line may go; infinite where nobody stands there, or nothing comes in."""
        if not self._line or self._rate <= 0:
            return math.inf
        self._fill(now)
        return max(0.0, (self._needed(self._line[0].nano) - self._level) / self._rate)

    def leave(self, turn: Turn) -> None:
        """Go away without a call: who has gone puts all of it back."""
        if turn.gone:
            self.give(turn.nano)
        elif turn in self._line:
            self._line.remove(turn)

    def give(self, nano: float) -> None:
        """Put back what a call did not cost; below nothing: take what it cost more."""
        self._level = min(self._level + nano, max(self._level, self._rate * BURST_S))

    def _needed(self, nano: float) -> float:
        return min(nano, self._rate * BURST_S) if self._rate > 0 else nano

    def _fill(self, now: float) -> None:
        full = self._rate * BURST_S
        if self._level < full:
            self._level = min(full, self._level + self._rate * max(0.0, now - self._at))
        self._at = max(self._at, now)
