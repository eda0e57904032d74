"""How many calls to a provider may be repetitions. Pure: time is an argument, in monotonic seconds.

A provider in trouble fails many calls; were each asked again, the repetitions alone could keep it down after the
trouble itself is over. So first calls earn the right to repeat: of the last `WINDOW_S` seconds, repetitions stay within
`share` of the first calls, plus `floor_per_s` a second so that a quiet process may repeat at all. The idea is that of
Finagle's retry budgets.
"""

from collections import deque

WINDOW_S = 10.0
FLOOR_PER_S = 1.0
_BUCKET_S = 1.0


class RetryBudget:
    """The budget of one provider in one process."""

    def __init__(self, share: float, floor_per_s: float = FLOOR_PER_S) -> None:
        self._share = share
        self._floor = floor_per_s * WINDOW_S
        self._buckets: deque[list[float]] = deque()  # start, first calls, repetitions
        self._firsts = 0.0
        self._repeats = 0.0

    def first(self, now: float) -> None:
        """A call is made for the first time."""
        self._bucket(now)[1] += 1
        self._firsts += 1

    def may_repeat(self, now: float) -> bool:
        """Whether a call may be made again now; if so, it is taken from the budget."""
        if self.left(now) < 1:
            return False
        self._bucket(now)[2] += 1
        self._repeats += 1
        return True

    def left(self, now: float) -> float:
        """How many repetitions there is room for now; below 1 there is for none."""
        self._expire(now)
        return self._floor + self._share * self._firsts - self._repeats

    def _bucket(self, now: float) -> list[float]:
        self._expire(now)
        buckets = self._buckets
        if not buckets or now >= buckets[-1][0] + _BUCKET_S:
            buckets.append([now, 0, 0])
        return buckets[-1]

    def _expire(self, now: float) -> None:
        while self._buckets and self._buckets[0][0] <= now - WINDOW_S:
            _, firsts, repeats = self._buckets.popleft()
            self._firsts -= firsts
            self._repeats -= repeats


class RetryBudgets:
    """A budget for each provider, made when it is first asked for."""

    def __init__(self, share: float, floor_per_s: float = FLOOR_PER_S) -> None:
        self._share = share
        self._floor_per_s = floor_per_s
        self._budgets: dict[str, RetryBudget] = {}

    def of(self, provider: str) -> RetryBudget:
        """The budget of a provider, by its name as configured."""
        budget = self._budgets.get(provider)
        if budget is None:
            budget = self._budgets[provider] = RetryBudget(self._share, self._floor_per_s)
        return budget
