"""Which of an operator's shifts a call gets."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.llm import Caller
from tollway.domain.shifts import Shift
from tollway.llm.shifts import shifted

CALLER = Caller("acme", "standard", "triage", task_type="mail")


def test_a_shift_fits_whom_it_names() -> None:
    """Every name given must be the caller's; what is not given fits anybody."""
    for shift, tier in (
        (Shift("fast", "capable"), "capable"),
        (Shift("fast", "capable", tenant="acme"), "capable"),
        (Shift("fast", "capable", tenant="acme", agent="triage", task_type="mail"), "capable"),
        (Shift("fast", "capable", tenant="other"), "fast"),
        (Shift("fast", "capable", tenant="acme", agent="other"), "fast"),
        (Shift("fast", "capable", task_type="chat"), "fast"),
        (Shift("powerful", "capable"), "fast"),
    ):
        assert shifted([shift], CALLER, "fast") == tier
    assert shifted([], CALLER, "fast") == "fast"


def test_the_one_that_names_most_wins_and_then_the_first() -> None:
    """More names beat fewer wherever they stand in the list; equals go by their order."""
    general, tenant = Shift("fast", "a"), Shift("fast", "b", tenant="acme")
    agent, both = Shift("fast", "c", agent="triage"), Shift("fast", "d", tenant="acme", task_type="mail")
    assert shifted([general, tenant, agent, both], CALLER, "fast") == "d"
    assert shifted([both, agent, tenant, general], CALLER, "fast") == "d"
    assert shifted([general, tenant, agent], CALLER, "fast") == "b"
    assert shifted([general, agent, tenant], CALLER, "fast") == "c"


def test_one_shift_and_no_more() -> None:
    """Shifts do not chain, so they can swap tiers; one to the same tier exempts from a wider one."""
    swap = [Shift("fast", "powerful"), Shift("powerful", "fast")]
    assert (shifted(swap, CALLER, "fast"), shifted(swap, CALLER, "powerful")) == ("powerful", "fast")
    assert shifted([Shift("fast", "capable"), Shift("fast", "fast", tenant="acme")], CALLER, "fast") == "fast"


NAME = st.sampled_from([None, "x", "y"])
SHIFT = st.builds(Shift, st.sampled_from("ab"), st.sampled_from("abc"), NAME, NAME, NAME)


@given(st.lists(SHIFT), st.sampled_from("xy"), st.sampled_from("xy"), st.sampled_from("xy"), st.sampled_from("ab"))
def test_it_is_the_first_of_the_most_specific(
    shifts: list[Shift], tenant: str, agent: str, task: str, tier: str
) -> None:
    """It is what sorting the fitting ones by how much they name would give first."""
    fitting = [
        shift
        for shift in shifts
        if shift.from_tier == tier
        and shift.tenant in (None, tenant)
        and shift.agent in (None, agent)
        and shift.task_type in (None, task)
    ]
    fitting.sort(key=lambda shift: -sum(name is not None for name in (shift.tenant, shift.agent, shift.task_type)))
    caller = Caller(tenant, "standard", agent, task_type=task)
    assert shifted(shifts, caller, tier) == (fitting[0].to_tier if fitting else tier)
