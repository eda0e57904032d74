"""Whether a run may come in, and whether it may start, by the money that is left for it. Pure: the time is an argument.

Of several budgets that cover a run the one that begins anew last decides: before that the others do not help.
"""

from collections.abc import Callable, Iterable, Mapping

from tollway.domain.budgets import AccountState, Budget, Exhausted, Rung
from tollway.domain.llm import Caller

INTERACTIVE = "interactive"
Accounts = Mapping[int, AccountState]
"""By budget; one that is not in it is not exhausted, and has spent nothing that matters here."""


def refused(
    budgets: Iterable[Budget], accounts: Accounts, caller: Caller, now: float, start_by: float | None = None
) -> Exhausted | None:
    """Why no run of the caller is taken: a budget refuses, or one parks for longer than the run may wait.

    `start_by` is when it must have started, epoch seconds; None: it may wait for ever.
    """
    covering = [budget for budget in budgets if budget.covers(caller)]
    refusal = _last(covering, accounts, now, lambda budget: _on(budget, Rung.REFUSE, accounts, caller.lane, now))
    if refusal is not None or start_by is None:
        return refusal
    parked = parks(covering, accounts, caller, now)
    return parked if parked is not None and (parked.until is None or parked.until > start_by) else None


def parks(budgets: Iterable[Budget], accounts: Accounts, caller: Caller, now: float) -> Exhausted | None:
    """Which budget keeps the caller's runs waiting, and until when."""
    covering = (budget for budget in budgets if budget.covers(caller))
    return _last(covering, accounts, now, lambda budget: _on(budget, Rung.PARK, accounts, caller.lane, now))


def spent(budgets: Iterable[Budget], accounts: Accounts, caller: Caller, now: float) -> Exhausted | None:
    """Which budget a call that waits for nothing fails by, whatever its runs would do."""
    covering = [budget for budget in budgets if budget.covers(caller)]
    return _last(
        covering,
        accounts,
        now,
        lambda budget: any(_on(budget, rung, accounts, caller.lane, now) for rung in (Rung.PARK, Rung.REFUSE)),
    )


def _on(budget: Budget, rung: Rung, accounts: Accounts, lane: str, now: float) -> bool:
    """Whether a budget stands on a rung of the door. The hard limit itself holds whatever an operator lifted."""
    if rung in budget.forced:
        return True
    account = _live(accounts.get(budget.id), now)
    if account is None:
        return False
    if rung is budget.on_hard and (
        account.exhausted == "all" or (account.exhausted is not None and lane != INTERACTIVE)
    ):
        return True
    hard = budget.hard_nano
    return (
        hard is not None
        and rung not in budget.lifted
        and any(step.rung is rung and account.spent_nano * 100 >= step.at_pct * hard for step in budget.ladder)
    )


def _live(account: AccountState | None, now: float) -> AccountState | None:
    """The account while its period lasts: nobody has told of the next one yet."""
    return None if account is None or (account.ends is not None and account.ends <= now) else account


def _last(
    budgets: Iterable[Budget], accounts: Accounts, now: float, closed: Callable[[Budget], bool]
) -> Exhausted | None:
    found: Exhausted | None = None
    for budget in filter(closed, budgets):
        account = _live(accounts.get(budget.id), now)
        until = None if account is None else account.ends
        if found is None or (found.until is not None and (until is None or until > found.until)):
            found = Exhausted(budget.id, until, budget.on_hard is Rung.PARK)
    return found
