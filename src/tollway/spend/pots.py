"""What a process knows of its tenants' budgets: each in its present period, and which of them cover a caller."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tollway.domain.budgets import Budget
from tollway.domain.llm import Caller
from tollway.record.budget_leases import Answer
from tollway.spend.budgets import SOUND, Standing
from tollway.spend.periods import FOREVER, span
from tollway.spend.slices import Slice

COVERINGS_MAX = 10_000
NO_LIMIT = 4_000_000_000_000_000_000
"""The hard limit of a budget without one, as leases have it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How an account stood at a moment (monotonic seconds), all processes counted; nano-dollars.

    `line` is where lanes but the interactive one end; `sharers` processes have slices of it.
    """

    spent: int
    reserved: int
    hard: int
    line: int
    at: float
    sharers: int = 1

    @classmethod
    def of(cls, answer: Answer, at: float) -> "Figures":
        """As a lease was answered."""
        return cls(answer.spent, answer.reserved, answer.hard, answer.line, at, answer.sharers)

    def under(self, budget: Budget) -> "Figures":
        """The same with the limits that the budget has by now, as a lease will say."""
        hard = NO_LIMIT if budget.hard_nano is None else budget.hard_nano
        return replace(self, hard=hard, line=hard - round(hard * budget.interactive_share))

    def covers(self, nano: int, *, inner: bool) -> bool:
        """Whether a call may be paid yet, once all that is only reserved comes back."""
        return self.spent + nano <= (self.hard if inner else self.line)


@dataclass(slots=True, eq=False)
class Pot:
    """A budget in its present period [begins, ends), epoch seconds. `account` is 0 until it is open.

    `short` says that calls wait here, `short_inner` that some of the interactive lane do: who comes later is behind.
    """

    budget: Budget
    begins: float = 0.0
    ends: float = 0.0
    account: int = 0
    slice: Slice | None = None
    figures: Figures | None = None
    short: bool = False
    short_inner: bool = False

    @property
    def until(self) -> float | None:
        """When the budget begins anew; None: never."""
        return None if self.ends == FOREVER else self.ends

    def turn(self, now: float) -> None:
        """Go on to the period that holds this moment."""
        self.begins, self.ends = span(self.budget.period, self.budget.timezone, now)
        self.account, self.slice, self.figures = 0, None, None

    def affords(self, nano: int, *, inner: bool) -> bool:
        """Whether its slice does."""
        return self.slice is not None and self.slice.affords(nano, inner=inner)


@dataclass(slots=True, eq=False)
class Covering:
    """The `pots` that pay for some callers' calls, and of them the `laddered`, which may stand on rungs.

    `standing` is how these stood when their figures were `judged`.
    """

    pots: tuple[Pot, ...] = ()
    laddered: tuple[Pot, ...] = ()
    judged: tuple[Figures | None, ...] = ()
    standing: Standing = SOUND

    def stand(self, judge: Callable[[Sequence[Pot]], Standing]) -> Standing:
        """How they stand; `judge` is asked again only once a lease was answered, for nothing else moves them."""
        if not self.laddered:
            return SOUND
        figures = tuple([pot.figures for pot in self.laddered])
        if figures != self.judged:
            self.judged, self.standing = figures, judge(self.laddered)
        return self.standing


_NOBODY = Covering()


@dataclass(slots=True)
class _Tenant:
    pots: tuple[Pot, ...]
    coverings: dict[tuple[str, str, str, str], Covering] = field(default_factory=dict)


class Pots:
    """The pots of all tenants that have budgets."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant] = {}

    def __iter__(self) -> Iterator[Pot]:
        return iter([pot for tenant in self._tenants.values() for pot in tenant.pots])

    def take(self, budgets: Mapping[str, Sequence[Budget]]) -> None:
        """These are the budgets, by tenant; kept in the order of their ids. One that was there keeps its account."""
        known = {pot.budget.id: pot for pot in self}
        self._tenants = {
            tenant: _Tenant(tuple(_kept(known, budget) for budget in sorted(of, key=lambda budget: budget.id)))
            for tenant, of in budgets.items()
        }

    def of(self, caller: Caller) -> tuple[Pot, ...]:
        """Those that pay for a caller's calls."""
        return self.covering(caller).pots

    def covering(self, caller: Caller) -> Covering:
        """The same, with how they stand; it lasts until the budgets change."""
        tenant = self._tenants.get(caller.tenant)
        if tenant is None:
            return _NOBODY
        key = (caller.agent, caller.lane, caller.task_type, caller.key_id)
        found = tenant.coverings.get(key)
        if found is None:
            if len(tenant.coverings) >= COVERINGS_MAX:
                tenant.coverings.clear()
            pots = tuple(pot for pot in tenant.pots if pot.budget.covers(caller))
            found = Covering(pots, tuple(pot for pot in pots if pot.budget.has_rungs))
            tenant.coverings[key] = found
        return found


def _kept(known: Mapping[int, Pot], budget: Budget) -> Pot:
    pot = known.get(budget.id)
    if pot is None:
        return Pot(budget)
    if (budget.period, budget.timezone) != (pot.budget.period, pot.budget.timezone):
        return Pot(budget)
    if pot.figures is not None and budget != pot.budget:
        pot.figures = pot.figures.under(budget)
    pot.budget = budget
    return pot
