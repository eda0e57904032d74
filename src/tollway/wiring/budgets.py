"""The guard of budgets of a process that makes calls."""

from tollway.record.budget_leases import BudgetLeases
from tollway.record.budgets import exhausted
from tollway.spend.guard import BudgetGuard, GuardOptions
from tollway.wiring.base import Base

_VALID_SHARE = 0.6
_TELL_AGAIN_S = 1.0
"""A crowd finds an account empty again and again; the record is told of it once a second."""


def budget_guard(parts: Base) -> BudgetGuard:
    """A guard to be started once the process is on record; its slices end well before its row may be taken away."""
    told: dict[int, float] = {}

    async def tell(account: int, nano: int) -> None:
        now = parts.clock.monotonic()
        if now < told.get(account, 0.0):
            return
        for other in [other for other, until in told.items() if until <= now]:
            del told[other]
        told[account] = now + _TELL_AGAIN_S
        if await exhausted(parts.database, account, nano):
            parts.broadcast.publish("budget", "")

    options = GuardOptions(valid_s=_VALID_SHARE * parts.settings.worker.lease_ttl_s, on_exhausted=tell)
    return BudgetGuard(BudgetLeases(parts.database), parts.clock, options)
