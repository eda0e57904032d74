"""Slices of budgets: whatever processes do, and whenever they die, no more is spent than the limit (P4)."""

from hypothesis import given
from hypothesis import strategies as st

from budget_kit import Account, Process
from tollway.spend.slices import IDLE_S, Slice, Wants

ACTS = ("reserve", "reserve", "reserve", "intend", "intend", "end", "end", "lease", "strand", "kill")
STEPS = st.tuples(st.sampled_from(ACTS), st.integers(0, 3), st.integers(0, 400), st.booleans())


class World:
    """Some processes and their account. `certain` is what all ended calls cost, the unknown ones at their worst."""

    def __init__(self, hard: int, line: int) -> None:
        self.account = Account(hard, line, crowd=4)
        self.processes = [Process(self.account, turn) for turn in range(4)]
        self.turns = 4
        self.certain = 0
        self.others = 0
        self.now = 0.0

    def act(self, act: str, which: int, amount: int, inner: bool) -> None:
        """One step of one process."""
        process = self.processes[which]
        self.now += 0.01 * (amount % 7)
        if act == "lease":
            process.lease(self.now, *[(1 + amount, inner)] * (amount % 3))
        elif act == "kill":
            self.kill(which)
        elif act == "reserve":
            if not process.reserve(1 + amount, self.now, inner=inner):
                process.lease(self.now, (1 + amount, inner))
                process.reserve(1 + amount, self.now, inner=inner)
        elif process.calls:
            self.go_on(process, act, amount)
        self.check()

    def go_on(self, process: Process, act: str, amount: int) -> None:
        """A call gets its intent or its end."""
        call = process.calls[amount % len(process.calls)]
        if act == "intend" and not call.intended:
            process.intend(call)
        elif act == "end":
            cost = min(amount, call.nano) if call.intended else 0
            process.end(call, cost)
            self.spend(cost, inner=call.inner)
        elif act == "strand" and call.intended:
            process.strand(call)
            self.spend(call.nano, inner=call.inner)

    def spend(self, cost: int, *, inner: bool) -> None:
        """A call cost this."""
        self.certain += cost
        self.others += 0 if inner else cost

    def kill(self, which: int) -> None:
        """The process dies: its intents end unknown, at their worst. Another takes its place."""
        process = self.processes[which]
        self.account.close(process.turn)
        for call in process.calls:
            if call.intended:
                self.spend(call.nano, inner=call.inner)
        self.processes[which] = Process(self.account, self.turns)
        self.turns += 1

    def check(self) -> None:
        """P4, at any moment, on record and in memory."""
        account = self.account
        assert account.spent + account.granted <= account.hard
        assert account.granted == sum(lent.granted for lent in account.slices.values())
        reserved = sum(call.nano for process in self.processes for call in process.calls if not call.inner)
        assert self.others + reserved <= account.line
        for process in self.processes:
            lent = account.slices.get(process.turn)
            assert process.slice.granted <= (0 if lent is None else lent.granted)
            assert process.slice.spent + process.slice.reserved <= process.slice.granted


@given(st.integers(0, 5000), st.integers(0, 100), st.lists(STEPS, max_size=120))
def test_no_interleaving_overshoots(hard: int, share: int, steps: list[tuple[str, int, int, bool]]) -> None:
    """P4: through calls, leases, losses and deaths in any order, spent and granted never pass the limit.

    In the end the account has just what the calls cost, each of unknown end at its worst case.
    """
    world = World(hard, hard - hard * share // 100)
    for step in steps:
        world.act(*step)
    for which in range(4):
        world.kill(which)
    assert world.account.spent == world.certain <= hard
    assert world.account.granted == 0


@given(st.integers(0, 1000), st.integers(0, 1000), st.lists(st.tuples(st.integers(1, 500), st.booleans()), max_size=6))
def test_what_is_kept_is_enough_for_who_waits_here(granted: int, spent: int, wants: list[tuple[int, bool]]) -> None:
    """A lease gives back idle money, but none that its own waiting calls can use; what it wants is just the rest.

    Too little for the first of them is of no use: that is given back too, lest two processes each hold a half.
    """
    slice_ = Slice(1, 0.0, granted=granted, spent=min(spent, granted))
    free, waiting = slice_.free, Wants()
    for nano, inner in sorted(wants, key=lambda want: not want[1]):
        waiting.add(nano, inner=inner)
    ask = slice_.ask(waiting, 1.0)
    need = waiting.inner + waiting.others
    useful = free if not waiting.front or free >= waiting.front else 0
    assert slice_.free == min(useful, need)
    assert ask.keep == slice_.granted
    assert ask.inner_want + ask.want == need - min(useful, need)
    assert ask.first == (0 if useful >= waiting.front else waiting.front)


def test_what_is_used_at_a_pace_is_held_in_comfort() -> None:
    """A process that spends evenly asks for some seconds' worth, so that no call has to wait for a lease."""
    slice_ = Slice(1, 0.0, comfort_max=1_000_000)
    for second in range(1, 12):
        slice_.granted = slice_.spent + 1_000_000
        for n in range(10):
            slice_.reserve(100, second + n / 10)
            slice_.settle(100, 100)
        ask = slice_.ask(Wants(), second + 1.0)
    assert 1500 <= ask.comfort <= 2500
    assert slice_.free == ask.comfort


def test_a_slice_is_idle_after_a_while_without_calls() -> None:
    """It is not while anything is reserved, however long ago that was."""
    slice_ = Slice(1, 0.0, granted=100)
    slice_.reserve(10, 1.0)
    assert not slice_.idle(100.0)
    slice_.settle(10, 10)
    assert slice_.idle(1.0 + IDLE_S)
    assert not slice_.idle(IDLE_S)
