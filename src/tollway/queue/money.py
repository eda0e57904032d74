"""Whether a run may come in, and whether it may start, by the money that is left for it. Pure: how it stands is told.

Of several budgets that cover a run the one that begins anew last decides: before that the others do not help.
"""

from collections.abc import Callable, Iterable

from tollway.domain.budgets import AccountState, Budget, Exhausted, Rung
from tollway.domain.llm import Caller

INTERACTIVE = "interactive"
Stands = Callable[[Budget], AccountState]
"""How a budget stands in its present period."""

_DOOR = (Rung.PARK, Rung.REFUSE)


def refused(
    budgets: Iterable[Budget], stands: Stands, caller: Caller, start_by: float | None = None
) -> Exhausted | None:
    """Why no run of the caller is taken: a budget refuses, or one parks for longer than the run may wait.

    `start_by` is when it must have started, epoch seconds; None: it may wait for ever.
    """
    covering = [budget for budget in budgets if budget.covers(caller)]
    refusal = _last(covering, stands, caller, (Rung.REFUSE,))
    if refusal is not None or start_by is None:
        return refusal
    parked = _last(covering, stands, caller, (Rung.PARK,))
    return parked if parked is not None and (parked.until is None or parked.until > start_by) else None


def parks(budgets: Iterable[Budget], stands: Stands, caller: Caller) -> Exhausted | None:
    """Which budget keeps the caller's runs waiting, and until when."""
    return _last(budgets, stands, caller, (Rung.PARK,))


def spent(budgets: Iterable[Budget], stands: Stands, caller: Caller) -> Exhausted | None:
    """Which budget a call that waits for nothing fails by, whatever becomes of runs."""
    return _last(budgets, stands, caller, _DOOR)


def _last(budgets: Iterable[Budget], stands: Stands, caller: Caller, rungs: tuple[Rung, ...]) -> Exhausted | None:
    found: Exhausted | None = None
    for budget in budgets:
        if not budget.covers(caller):
            continue
        account = stands(budget)
        if not any(_on(budget, rung, account, caller.lane) for rung in rungs):
            continue
        until = account.ends
        if found is None or (found.until is not None and (until is None or until > found.until)):
            found = Exhausted(budget.id, until, budget.on_hard is Rung.PARK)
    return found


def _on(budget: Budget, rung: Rung, account: AccountState, lane: str) -> bool:
    """Whether a budget stands on a rung of the door. The hard limit itself holds whatever an operator lifted."""
    if rung in budget.forced:
        return True
    if rung is budget.on_hard and (account.exhausted == "all" or (account.exhausted and lane != INTERACTIVE)):
        return True
    hard = budget.hard_nano
    return (
        hard is not None
        and rung not in budget.lifted
        and any(step.rung is rung and account.spent_nano * 100 >= step.at_pct * hard for step in budget.ladder)
    )
