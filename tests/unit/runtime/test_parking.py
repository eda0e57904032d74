"""For how long a run parks, and behind which gate."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.budgets import Exhausted
from tollway.domain.errors import LlmError
from tollway.domain.outcomes import Parked
from tollway.runtime.parking import PARK_MAX_S, PARK_MIN_S, park_s, parked_by

NOW = 1_000_000.0


def spent(until: float | None) -> LlmError:
    """No money of budget 7 until then."""
    error = LlmError("budget_exhausted", "spent")
    error.exhausted = Exhausted(7, until, parks=True)
    return error


def test_no_capacity_parks_before_its_tier() -> None:
    """For as long as the error says, behind the gate of the tier."""
    error = LlmError("no_capacity", "none", retry_after_s=7.0)
    error.tier = "fast"
    assert parked_by(error, NOW) == Parked(7.0, "no_capacity", "none", "capacity:fast")


def test_no_money_parks_until_the_period_turns() -> None:
    """Behind the gate of the budget; without an end for an hour; where money may come back, until it may."""
    month_s = 30 * 86_400.0
    parked = parked_by(spent(NOW + month_s), NOW)
    assert (parked.gate, park_s(parked)) == ("budget:7", month_s)
    assert park_s(parked_by(spent(None), NOW)) == PARK_MAX_S
    soon = spent(NOW + month_s).later()
    soon.retry_after_s = 3.0
    assert park_s(parked_by(soon, NOW)) == 3.0


@given(st.floats(-1e7, 1e7), st.sampled_from(["time", "capacity:fast", "dependency:crm", "budget:7"]))
def test_nobody_parks_for_ever_on_a_guess(delay_s: float, gate: str) -> None:
    """Any wait is a moment at least, and an hour at most unless a period says when it ends."""
    wait_s = park_s(Parked(delay_s, "code", "", gate))
    assert wait_s >= PARK_MIN_S
    assert wait_s <= PARK_MAX_S or (gate == "budget:7" and wait_s == delay_s)
