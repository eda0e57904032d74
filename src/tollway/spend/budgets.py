"""The seam between calls and the budgets that pay them: money is reserved before a call and settled after it (P4)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tollway.domain.budgets import Exhausted, Rung
from tollway.domain.llm import Caller


@dataclass(frozen=True, slots=True)
class Hold:
    """Money reserved for one call, nano-dollars, in each of the `accounts` that cover it; none: no budget does.

    `process` is the incarnation that holds it.
    """

    nano: int
    accounts: tuple[int, ...] = ()
    process: int = 0

    @property
    def told(self) -> str | None:
        """The accounts as the record takes them; None without any."""
        return ",".join(map(str, self.accounts)) if self.accounts else None


@dataclass(frozen=True, slots=True)
class Pace:
    """What is left of a throttled budget, nano-dollars, for how many seconds, and how many processes spend of it."""

    budget: int
    left_nano: int
    lasts_s: float
    sharers: int = 1


@dataclass(frozen=True, slots=True)
class Standing:
    """The rungs a caller stands on, of all budgets that cover it.

    `by` says whose rung each is: of several budgets the one that begins anew last, with what comes of it where the rung
    leaves no way to call. `paces` are those of the budgets on `throttle`.
    """

    rungs: frozenset[Rung] = frozenset()
    by: Mapping[Rung, Exhausted] = field(default_factory=dict)
    paces: tuple[Pace, ...] = ()


NOTHING_HELD = Hold(0)
SOUND = Standing()


class Budgets(Protocol):
    """The budgets of all callers, as one process knows them."""

    def standing(self, caller: Caller) -> Standing:
        """The rungs on which a caller's next call stands, as far as this process knows. Local, at once."""

    async def look(self, caller: Caller) -> Standing:
        """The same; where this process does not know what was spent, as after a rest, it asks first, once."""

    async def reserve(self, caller: Caller, nano: int, patience_s: float) -> Hold:
        """Reserve the worst case of a call in every budget that covers it.

        It waits at most `patience_s` while others hold what they may not need. Raises LlmError `budget_exhausted`,
        whose `exhausted` says which budget and until when, and whose `parks` says that money may come back sooner.
        """

    def settle(self, hold: Hold, spent_nano: int) -> None:
        """The call cost this, which may be more than was held; nothing of the hold is left.

        To be told when the outcome is on record, or when no intent ever was: what comes free is reserved again at once.
        """

    def strand(self, hold: Hold) -> None:
        """The call was given up without an outcome, its intent on record: all of the hold counts as spent."""


class NoBudgets:
    """Implements `Budgets` where there are none."""

    def standing(self, caller: Caller) -> Standing:
        """No rung."""
        return SOUND

    async def look(self, caller: Caller) -> Standing:
        """No rung."""
        return SOUND

    async def reserve(self, caller: Caller, nano: int, patience_s: float) -> Hold:
        """Nothing to hold."""
        return NOTHING_HELD

    def settle(self, hold: Hold, spent_nano: int) -> None:
        """Nothing was held."""

    def strand(self, hold: Hold) -> None:
        """Nothing was held."""


NO_BUDGETS = NoBudgets()
