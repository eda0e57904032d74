"""The guard of budgets of a process that makes calls."""

from tollway.record.budget_leases import BudgetLeases
from tollway.spend.guard import BudgetGuard, GuardOptions
from tollway.wiring.base import Base

_VALID_SHARE = 0.6


def budget_guard(parts: Base) -> BudgetGuard:
    """A guard to be started once the process is on record; its slices end well before its row may be taken away."""
    options = GuardOptions(valid_s=_VALID_SHARE * parts.settings.worker.lease_ttl_s)
    return BudgetGuard(BudgetLeases(parts.database), parts.clock, options)
