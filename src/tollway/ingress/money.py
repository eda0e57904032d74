"""Money at the door of one API process: who is refused for want of it, and what queued runs wait for. From memory."""

from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from tollway.domain.budgets import AccountState, Budget, Exhausted
from tollway.domain.clock import Clock
from tollway.domain.errors import Problem
from tollway.domain.gates import Blocked, Gate
from tollway.domain.llm import Caller
from tollway.ingress.problems import retry_headers
from tollway.queue.money import parks, refused, spent
from tollway.record.accounts import AccountBoard
from tollway.record.run_document import rfc3339_epoch
from tollway.record.settings_sync import SettingsSync
from tollway.spend.periods import FOREVER, span

_UNSPENT = AccountState(None, 0)


class Money:
    """What budgets say at the door, by the settings and how their accounts stand."""

    def __init__(self, sync: SettingsSync, accounts: AccountBoard, clock: Clock) -> None:
        self._sync = sync
        self._accounts = accounts
        self._clock = clock
        sync.on_change(lambda snapshot: accounts.govern(snapshot.budgets))

    def check_run(self, caller: Caller, start_by: float | None) -> None:
        """Raise Problem `budget_exhausted` for a run that no budget lets in, or none lets start in time."""
        budgets = self._of(caller.tenant)
        if budgets:
            found = refused(budgets, self._stands, caller, start_by)
            if found is not None:
                raise self._refusal(found)

    def check_call(self, caller: Caller) -> None:
        """The same of a call over the wire, which waits for nothing."""
        budgets = self._of(caller.tenant)
        if budgets:
            found = spent(budgets, self._stands, caller)
            if found is not None:
                raise self._refusal(found)

    def parks(self, caller: Caller) -> Exhausted | None:
        """Which budget the caller's runs wait for, and until when."""
        budgets = self._of(caller.tenant)
        return parks(budgets, self._stands, caller) if budgets else None

    def blocked(self, tenant: str, lane: str, agent: str) -> Blocked | None:
        """What all queued runs of a line wait for; not what only some of them do, for their task type or key."""
        found = self.parks(Caller(tenant, lane, agent))
        return None if found is None else Blocked(Gate.BUDGET.value, str(found.budget), found.until)

    def _stands(self, budget: Budget) -> AccountState:
        """As it was last read, while its period lasts: nobody has told of the next one yet."""
        account, now = self._accounts.now.get(budget.id), self._clock.now()
        if account is not None and (account.ends is None or account.ends > now):
            return account
        if not budget.forced:
            return _UNSPENT
        try:
            ends = span(budget.period, budget.timezone, now)[1]
        except ZoneInfoNotFoundError:  # nobody here knows when its period ends
            return _UNSPENT
        return AccountState(None if ends == FOREVER else ends, 0)

    def _of(self, tenant: str) -> tuple[Budget, ...]:
        return self._sync.snapshot.budgets.get(tenant, ())

    def _refusal(self, found: Exhausted) -> Problem:
        return exhausted_problem(found, self._clock.now())


def exhausted_problem(found: Exhausted, now: float) -> Problem:
    """403 for want of money, with when there is some again; a budget without an end says null."""
    opens_at = None if found.until is None else rfc3339_epoch(found.until)
    fields: dict[str, Any] = {"opens_at": opens_at, "budget": str(found.budget)}
    if found.until is None:
        return Problem(
            "budget_exhausted", f"Budget {found.budget} is spent; only a higher limit opens it.", fields=fields
        )
    detail = f"Budget {found.budget} is spent until {opens_at}; try again then, or have its limit raised."
    return Problem("budget_exhausted", detail, fields=fields, headers=retry_headers(max(1.0, found.until - now)))
