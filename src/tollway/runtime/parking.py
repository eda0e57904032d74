"""For how long a run parks that cannot make its call, and behind which gate."""

from tollway.domain.errors import LlmError
from tollway.domain.gates import Gate
from tollway.domain.outcomes import Parked

PARK_MIN_S = 0.25
PARK_MAX_S = 3600.0
"""Beyond this a run looks again by itself, but for money: when a period ends is no guess."""

_BUDGET = Gate.BUDGET.before("")


def parked_by(error: LlmError, now: float) -> Parked:
    """How a run parks by this error: until its budget begins anew, or until there may be capacity of its tier.

    A budget without an end is looked at about once an hour, one whose money may come back when the error says so.
    """
    spent = error.exhausted
    if spent is None:
        return Parked(error.retry_after_s or 1.0, error.code, str(error), Gate.CAPACITY.before(error.tier or ""))
    delay_s = PARK_MAX_S if spent.until is None else spent.until - now
    if error.parks:
        delay_s = min(delay_s, error.retry_after_s or 1.0)
    return Parked(delay_s, error.code, str(error), Gate.BUDGET.before(str(spent.budget)))


def park_s(parked: Parked) -> float:
    """The seconds it waits at most."""
    wait_s = max(parked.delay_s, PARK_MIN_S)
    return wait_s if parked.gate.startswith(_BUDGET) else min(wait_s, PARK_MAX_S)
