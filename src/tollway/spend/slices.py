"""The part of a budget's account that this process may spend on its own, and what it asks for next. Pure arithmetic.

    granted ─┬─ spent      settled, and durable so
             ├─ reserved   the worst case of calls under way
             └─ free       for the next call

Nothing is reserved that is not free, so a slice spends no more than it was granted, but for what a call costs beyond
its worst case. Money is in nano-dollars, time in seconds of a monotonic clock.
"""

from dataclasses import dataclass

from tollway.record.budget_leases import Answer, Ask

COMFORT_S = 2.0
IDLE_S = 5.0
_WEIGHT = 0.4


@dataclass(slots=True)
class Wants:
    """What waiting calls need of an account: of the interactive lane and of others, and the front one of all."""

    inner: int = 0
    others: int = 0
    front: int = 0
    front_inner: bool = False

    def add(self, nano: int, *, inner: bool) -> None:
        """One more that waits, the interactive ones first."""
        if not self.front:
            self.front, self.front_inner = nano, inner
        if inner:
            self.inner += nano
        else:
            self.others += nano


NO_WANTS = Wants()


@dataclass(slots=True)
class Slice:
    """What this process has of an account.

    `past` says that the rest of the account is the interactive lane's, so that no other reserves here. `low` is the
    level of free money at which more is asked for, before a call has to wait for it.
    """

    account: int
    used_at: float
    granted: int = 0
    spent: int = 0
    reserved: int = 0
    past: bool = False
    near: bool = False
    low: int = 0
    comfort: int = 0
    comfort_max: int = 0
    burn: float = 0.0
    taken: int = 0
    asked_at: float = 0.0

    @property
    def free(self) -> int:
        """What the next call may reserve; below 0 where calls cost more than their worst case."""
        return self.granted - self.spent - self.reserved

    def affords(self, nano: int, *, inner: bool) -> bool:
        """Whether a call of this worst case may be made."""
        return self.granted - self.spent - self.reserved >= nano and (inner or not self.past)

    def reserve(self, nano: int, now: float) -> None:
        """Take what it `affords`."""
        self.reserved += nano
        self.taken += nano
        self.used_at = now

    def settle(self, nano: int, spent: int) -> None:
        """A call that had reserved `nano` cost `spent`, which may be more; to be told when that is durable."""
        self.reserved -= nano
        self.spent += spent

    def idle(self, now: float) -> bool:
        """Whether nothing was reserved for a while, nor is."""
        return not self.reserved and now - self.used_at >= IDLE_S

    def ask(self, wants: Wants, now: float, *, retired: bool = False) -> Ask:
        """What to keep and to want now. What is given back is no longer granted from here on.

        Money that is too little for the front call is of no use here and may be to another process, so that all of
        what is needed is asked for anew. A `retired` slice is of a period that is over, and gives back all it can.
        """
        self._learn(now)
        wished = 0 if retired or self.near else int(self.burn * COMFORT_S)
        self.comfort = min(wished, self.comfort_max)
        free = max(0, self.free)
        if wants.front and not self.affords(wants.front, inner=wants.front_inner):
            self.granted -= free
            return Ask(self.account, self.granted, wants.inner, wants.others, wants.front, wished)
        for_others = 0 if self.past else max(0, free - wants.inner)
        self.granted -= free - min(free, wants.inner + min(wants.others, for_others) + self.comfort)
        inner_want, want = max(0, wants.inner - free), wants.others - min(wants.others, for_others)
        return Ask(self.account, self.granted, inner_want, want, 0, wished)

    def take(self, answer: Answer) -> None:
        """What the account answered."""
        self.granted = answer.granted
        self.near, self.past = answer.near, answer.past
        self.comfort_max = answer.comfort_max
        self.low = 0 if answer.near else self.comfort // 2

    def _learn(self, now: float) -> None:
        """The worst case of what is reserved a second, a mean that forgets within a few leases."""
        passed, self.asked_at = now - self.asked_at, now
        rate = self.taken / max(passed, 0.05)
        self.burn += min(1.0, _WEIGHT + passed / COMFORT_S) * (rate - self.burn)
        self.taken = 0
