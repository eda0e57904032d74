"""Repetitions are a share of first calls, so that an outage ends when its cause does."""

from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.llm.retries import WINDOW_S, RetryBudget, RetryBudgets


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=400), st.floats(0, 1), st.floats(0, 2))
def test_repetitions_stay_within_their_share(steps: list[tuple[float, bool]], share: float, floor_per_s: float) -> None:
    """In whatever order calls come, no window holds more repetitions than the share of its first calls and the floor.

    What a window may hold is what its first calls and those of the bucket that reaches into it have earned.
    """
    budget, now = RetryBudget(share, floor_per_s), 0.0
    firsts: list[float] = []
    repeats: list[float] = []
    for pause_s, first in steps:
        now += pause_s
        if first:
            budget.first(now)
            firsts.append(now)
        elif budget.may_repeat(now):
            repeats.append(now)
            taken = sum(at > now - WINDOW_S + 1 for at in repeats)
            earned = share * sum(at > now - WINDOW_S for at in firsts) + floor_per_s * WINDOW_S
            assert taken <= earned + 1e-6


def test_the_floor_lets_a_quiet_process_repeat() -> None:
    """Without first calls the floor alone is to be had, and again when the window has passed."""
    budget = RetryBudget(0.2, floor_per_s=0.5)
    assert [budget.may_repeat(1.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not budget.may_repeat(10.9)
    assert budget.may_repeat(11.0)
    assert budget.left(11.0) == pytest.approx(4.0)


def test_each_provider_has_its_own() -> None:
    """What one provider's trouble uses up is not taken from another."""
    budgets = RetryBudgets(0.2, floor_per_s=0.1)
    assert budgets.of("a").may_repeat(0.0)
    assert not budgets.of("a").may_repeat(0.0)
    assert budgets.of("b").may_repeat(0.0)
    assert budgets.of("a") is budgets.of("a")


@dataclass
class _Call:
    begun: float
    tries: int
    answered: bool = False


class _Provider:
    """Serves calls in the order they came, whether or not somebody still waits; refuses what finds its queue full.

    Callers give up after a second and ask again up to three times, as far as the budget lets them. This is the classic
    metastable system: the work for callers who have gone keeps it from serving those who are there.
    """

    CAPACITY_PER_S = 140
    QUEUE_MAX = 300

    def __init__(self, budget: RetryBudget) -> None:
        self.budget = budget
        self.answered = self.firsts = self.repeats = 0
        self._queue: deque[_Call] = deque()
        self._awaited: deque[_Call] = deque()
        self._again: deque[tuple[float, int]] = deque()
        self._tick = 0

    def run(self, until: float, rate: int, up: bool) -> float:
        """Time passes; returns the share of the first calls that were answered."""
        answered, firsts = self.answered, self.firsts
        while self._tick < until * 1000:
            self._tick += 1
            now = self._tick / 1000
            if self._tick % (1000 // rate) == 0:
                self.firsts += 1
                self.budget.first(now)
                self._arrive(_Call(now, 1))
            if up and self._tick % (1000 // self.CAPACITY_PER_S) == 0:
                self._serve(now)
            while self._awaited and self._awaited[0].begun <= now - 1:
                call = self._awaited.popleft()
                if not call.answered:
                    self._fail(now, call)
            while self._again and self._again[0][0] <= now:
                self._arrive(_Call(now, self._again.popleft()[1]))
        return (self.answered - answered) / (self.firsts - firsts)

    def _arrive(self, call: _Call) -> None:
        if len(self._queue) >= self.QUEUE_MAX:
            self._fail(call.begun, call)
            return
        self._queue.append(call)
        self._awaited.append(call)

    def _serve(self, now: float) -> None:
        if self._queue:
            call = self._queue.popleft()
            call.answered = call.begun > now - 1
            self.answered += call.answered

    def _fail(self, now: float, call: _Call) -> None:
        if call.tries < 4 and self.budget.may_repeat(now):
            self.repeats += 1
            self._again.append((now + 0.2, call.tries + 1))


def _outage(budget: RetryBudget) -> tuple[list[float], int, int]:
    """Sound for 30 s, away for 20 s, back: what was answered in each span after, and first calls and repetitions."""
    provider = _Provider(budget)
    assert provider.run(30, 100, up=True) > 0.99
    provider.run(50, 100, up=False)
    firsts, repeats = provider.firsts, provider.repeats
    recovery = [provider.run(until, 100, up=True) for until in (80, 110, 140)]
    return recovery, provider.firsts - firsts, provider.repeats - repeats


def test_no_retry_storm_after_an_outage() -> None:
    """Trigger, trigger removed, recovery within a minute; without the budget the outage outlives its cause."""
    recovery, _, _ = _outage(RetryBudget(share=1e9))
    assert recovery[-1] < 0.05
    recovery, firsts, repeats = _outage(RetryBudget(share=0.2))
    assert min(recovery[1:]) > 0.99
    assert repeats <= 0.2 * firsts + 1.0 * (firsts / 100 + WINDOW_S)
