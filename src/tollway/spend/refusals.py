"""What a call is told that no budget pays for."""

from tollway.domain.budgets import Budget, Exhausted, Rung
from tollway.domain.errors import LlmError
from tollway.spend.budgets import Standing

BUSY_AGAIN_S = 3.0
LOOK_AGAIN_S = 3600.0
BARS = {
    Rung.REFUSE: "it refuses calls",
    Rung.PARK: "its work is parked",
    Rung.CACHED_ONLY: "only kept answers are given, and there is none for this call",
}
"""The rungs that leave no way to call, the hardest first, and why."""


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


def barred(standing: Standing) -> Rung | None:
    """The rung that leaves no way to call, if any."""
    return next((rung for rung in BARS if rung in standing.rungs), None)


def behind(rung: Rung, exhausted: Exhausted, now: float) -> LlmError:
    """The budget stands on a rung that leaves no way to call."""
    return spent(exhausted, f"budget {exhausted.budget} stands on {rung.value}: {BARS[rung]}", now)


def spent(exhausted: Exhausted, message: str, now: float) -> LlmError:
    """There is no money until the budget begins anew: a call parks until then, where its budget has it so."""
    error = LlmError("budget_exhausted", message, final=not exhausted.parks)
    error.exhausted = exhausted
    if exhausted.parks:
        error.retry_after_s = LOOK_AGAIN_S if exhausted.until is None else max(1.0, exhausted.until - now)
        return error.later()
    return error


def beyond_run(limit_nano: int, nano: int, spent_nano: int) -> LlmError:
    """The run's own budget, which begins never anew, does not cover the call."""
    error = LlmError(
        "budget_exhausted",
        f"the run's budget of {limit_nano / 1e9:.6f} USD does not cover this call "
        f"({nano / 1e9:.6f} USD at worst, {spent_nano / 1e9:.6f} spent)",
        final=True,
    )
    error.exhausted = Exhausted(0, None, parks=False)
    return error
