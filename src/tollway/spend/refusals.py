"""What a call is told that no budget pays for."""

from tollway.domain.budgets import Budget, Exhausted, Rung
from tollway.domain.errors import LlmError

BUSY_AGAIN_S = 3.0
LOOK_AGAIN_S = 3600.0


def exhausted(budget: Budget, until: float | None, now: float) -> LlmError:
    """The rest of the budget does not cover the call; `until` its period turns (epoch seconds; None: never)."""
    parks = budget.on_hard is Rung.PARK
    error = LlmError(
        "budget_exhausted",
        f"the {budget.period} budget {budget.id} of tenant {budget.tenant} does not cover this call",
        retry_after_s=LOOK_AGAIN_S if until is None else max(1.0, until - now),
        final=not parks,
    )
    error.exhausted = Exhausted(budget.id, until, parks)
    return error.later() if parks else error


def busy(budget: Budget) -> LlmError:
    """Other calls hold what is left of the budget, and may not need it: it may be had soon."""
    error = LlmError(
        "budget_exhausted",
        f"calls under way hold the rest of the {budget.period} budget {budget.id} of tenant {budget.tenant}",
        retry_after_s=BUSY_AGAIN_S,
    )
    error.exhausted = Exhausted(budget.id, None, True)
    return error.later()
