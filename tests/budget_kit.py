"""Budgets as a model: one account with its slices and deltas, and processes that lease, call, fall silent and die.

The model does in Python what `lease_budgets` and its sisters do in the record, so that one can be held to the other.
"""

from dataclasses import dataclass, field

from tollway.record.budget_leases import Answer, Ask
from tollway.spend.slices import NO_WANTS, Slice, Wants

NO_LIMIT = 4_000_000_000_000_000_000


@dataclass
class Lent:
    """A slice on record."""

    granted: int = 0
    spent: int = 0
    reserved: int = 0


@dataclass
class Account:
    """An account on record. `line` is where lanes but the interactive one end."""

    hard: int
    line: int
    crowd: int
    spent: int = 0
    granted: int = 0
    slices: dict[int, Lent] = field(default_factory=dict)
    deltas: list[tuple[int, int, int]] = field(default_factory=list)

    def fold(self, process: int) -> None:
        """Count the deltas of a process."""
        for who, spent, reserved in self.deltas:
            if who == process and process in self.slices:
                self.slices[process].spent += spent
                self.slices[process].reserved += reserved
            elif who == process:
                self.spent += spent + reserved
        self.deltas = [delta for delta in self.deltas if delta[0] != process]

    def close(self, process: int) -> None:
        """Close the slice of a process: what is reserved counts as spent."""
        self.fold(process)
        lent = self.slices.pop(process, Lent())
        self.spent += lent.spent + lent.reserved
        self.granted -= lent.granted

    def lease(self, process: int, ask: Ask, stranded: int = 0) -> Answer:
        """One lease, as the record makes it."""
        self.fold(process)
        lent = self.slices.setdefault(process, Lent())
        lent.spent += stranded
        lent.reserved -= stranded
        kept = max(min(lent.granted, ask.keep), lent.spent + lent.reserved)
        self.granted += kept - lent.granted
        lent.granted = kept
        used, idle = self.spent + self.granted, lent.granted - lent.spent - lent.reserved
        inner = max(0, min(ask.inner_want, self.hard - used))
        given = inner + max(0, min(ask.want, self.line - used - inner))
        if (inner if ask.inner_want > 0 else given) < ask.first:
            given = 0
        comfort_max = self.hard // (100 * self.crowd)
        comfort = min(ask.comfort, comfort_max) - idle
        given += max(0, min(comfort, self.line - used - given, self.hard - used - given - self.hard // 20))
        lent.granted += given
        self.granted += given
        return Answer(
            0,
            lent.granted,
            self.spent + sum(one.spent for one in self.slices.values()),
            sum(one.reserved for one in self.slices.values()),
            self.hard,
            self.line,
            comfort_max,
            self.hard - used - given < self.hard // 20 or (ask.first > 0 and given == 0),
            used + given > self.line,
            len(self.slices),
        )


@dataclass
class Call:
    """A call of a process: its worst case, and whether its intent is on record."""

    nano: int
    inner: bool
    intended: bool = False


class Process:
    """A process with one slice. `turn` is its incarnation."""

    def __init__(self, account: Account, turn: int) -> None:
        self.account = account
        self.turn = turn
        self.slice = Slice(0, 0.0)
        self.calls: list[Call] = []
        self.stranded = 0

    def ask(self, now: float, *wants: tuple[int, bool]) -> Ask:
        """What it asks for these calls that wait, the interactive ones first."""
        waiting = Wants() if wants else NO_WANTS
        for nano, inner in sorted(wants, key=lambda want: not want[1]):
            waiting.add(nano, inner=inner)
        return self.slice.ask(waiting, now)

    def lease(self, now: float, *wants: tuple[int, bool]) -> Answer:
        """Lease once."""
        stranded, self.stranded = self.stranded, 0
        answer = self.account.lease(self.turn, self.ask(now, *wants), stranded)
        self.slice.take(answer)
        return answer

    def reserve(self, nano: int, now: float, *, inner: bool) -> bool:
        """Begin a call if the slice affords it."""
        if not self.slice.affords(nano, inner=inner):
            return False
        self.slice.reserve(nano, now)
        self.calls.append(Call(nano, inner))
        return True

    def intend(self, call: Call) -> None:
        """Its intent is written."""
        call.intended = True
        self.account.deltas.append((self.turn, 0, call.nano))

    def end(self, call: Call, cost: int) -> None:
        """Its outcome is written: only then the rest is free again."""
        self.calls.remove(call)
        if call.intended:
            self.account.deltas.append((self.turn, cost, -call.nano))
        self.slice.settle(call.nano, cost if call.intended else 0)

    def strand(self, call: Call) -> None:
        """It is given up with its intent on record."""
        self.calls.remove(call)
        self.slice.settle(call.nano, call.nano)
        self.stranded += call.nano
